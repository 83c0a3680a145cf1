package rendezvous

import (
	"context"
	"net/http"
	"time"

	"rendezvous/internal/ops"
	"rendezvous/proto"
)

// Paths on the control socket.
const (
	PathStatus = "/status"
	PathInvite = "/invite"
)

// InviteRequest asks the operator's way for a join link.
type InviteRequest struct {
	Expires time.Duration `json:"expires"` // MinExpiry to MaxExpiry, in nanoseconds
	Uses    int           `json:"uses"`    // 1 to MaxUses
	Veil    bool          `json:"veil,omitempty"`
}

// InviteAnswer is the join link.
type InviteAnswer struct {
	Link string `json:"link"`
}

// Check says what is wrong with the request.
func (r *InviteRequest) Check() error {
	if r.Expires < MinExpiry || r.Expires > MaxExpiry {
		return ops.Usage("an invite can be valid for %v to %v, not %v", MinExpiry, MaxExpiry, r.Expires)
	}
	if r.Uses < 1 || r.Uses > MaxUses {
		return ops.Usage("an invite can have 1 to %d uses, not %d", MaxUses, r.Uses)
	}
	return nil
}

// Invite makes a join link of the coordinator: it holds no secret of the
// network, so who joins by it must be approved, but for the first.
func (r *Registry) Invite(now time.Time, ask InviteRequest) (InviteAnswer, error) {
	if err := ask.Check(); err != nil {
		return InviteAnswer{}, err
	}
	host, err := r.Host()
	if err != nil {
		return InviteAnswer{}, err
	}
	if host == "" {
		return InviteAnswer{}, ops.Failed("the registry %s does not know yet where agents reach this coordinator; run `rendezvous serve` once, with --public-addr if this host is behind a NAT", r.path)
	}
	pin, err := r.Pin()
	if err != nil {
		return InviteAnswer{}, err
	}
	token, err := r.CreateInvite(now, ask.Expires, ask.Uses, "")
	if err != nil {
		return InviteAnswer{}, err
	}
	return InviteAnswer{Link: proto.Link{Coordinator: host, Pin: pin, Token: token, Veil: ask.Veil}.String()}, nil
}

// Control answers the coordinator's other commands.
func (s *Server) Control() http.Handler {
	mux := http.NewServeMux()
	ops.Handle(mux, PathStatus, func(context.Context, struct{}) (Status, error) { return s.Status() })
	ops.Handle(mux, PathInvite, func(_ context.Context, ask InviteRequest) (InviteAnswer, error) {
		return s.registry.Invite(time.Now(), ask)
	})
	return mux
}

// Health says what keeps the coordinator from its work: nil is fine.
func (s *Server) Health(context.Context) error { return s.registry.Check() }
