package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"rendezvous/internal/ops"
)

// The paths of the control socket. Both sides are in this package; nothing
// else relies on them.
const (
	apiStatus   = "/status"
	apiPing     = "/ping"
	apiExplain  = "/explain"
	apiExpose   = "/expose"
	apiUnexpose = "/unexpose"
	apiDial     = "/dial"
	apiHangup   = "/hangup"
	apiInvite   = "/invite"
	apiPending  = "/pending"
	apiApprove  = "/approve"
	apiRevoke   = "/revoke"
)

// Bounds of what a command may make the daemon wait for. A ping that has to
// make a session first takes an introduction and some round trips; explain asks
// the peer over that session; the rest is one exchange with the coordinator.
const (
	pingWait        = 10 * time.Second
	explainWait     = 5 * time.Second
	coordinatorWait = 15 * time.Second
)

type peerRequest struct {
	Peer string `json:"peer"`
}

type serviceRequest struct {
	Peer    string `json:"peer,omitempty"`
	Service string `json:"service"`
	URL     string `json:"url,omitempty"`
}

type inviteRequest struct {
	Expires time.Duration `json:"expires_ns"`
}

type inviteAnswer struct {
	Link string `json:"link"`
}

type memberRequest struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint,omitempty"`
}

type nothing struct{}

// NewHandler answers the other commands for d, over ops' control socket.
func NewHandler(d Daemon) http.Handler {
	mux := http.NewServeMux()
	handleWatcher(mux, d)
	handleControl(mux, d)
	handleMembership(mux, d)
	return mux
}

func handleWatcher(mux *http.ServeMux, d Watcher) {
	ops.Handle(mux, apiStatus, func(context.Context, nothing) (Status, error) {
		return d.Status().normal(), nil
	})
	ops.Handle(mux, apiPing, func(ctx context.Context, in peerRequest) (PingLine, error) {
		if err := checkPeer(in.Peer); err != nil {
			return PingLine{}, err
		}
		ctx, cancel := context.WithTimeout(ctx, pingWait)
		defer cancel()
		line, err := d.Ping(ctx, in.Peer)
		if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			err = fmt.Errorf("no answer in %s; see `agent explain %s`", pingWait, in.Peer)
		}
		if err != nil {
			// A ping that fails is an answer too, as a line.
			return PingLine{Peer: in.Peer, Error: err.Error()}, nil
		}
		line.Peer = in.Peer
		return line, nil
	})
	ops.Handle(mux, apiExplain, func(ctx context.Context, in peerRequest) (Explain, error) {
		if err := checkPeer(in.Peer); err != nil {
			return Explain{}, err
		}
		ctx, cancel := context.WithTimeout(ctx, explainWait)
		defer cancel()
		e, err := d.Explain(ctx, in.Peer)
		return e.normal(), err
	})
}

func handleControl(mux *http.ServeMux, d Control) {
	do := func(path string, act func(in serviceRequest) error) {
		ops.Handle(mux, path, func(_ context.Context, in serviceRequest) (nothing, error) { return nothing{}, act(in) })
	}
	do(apiExpose, func(in serviceRequest) error {
		if _, err := ParseService(in.Service, in.URL); err != nil {
			return &ops.UsageError{Err: err}
		}
		return d.Expose(in.Service, in.URL)
	})
	do(apiUnexpose, func(in serviceRequest) error { return d.Unexpose(in.Service) })
	do(apiDial, func(in serviceRequest) error {
		if _, err := ParseDial(in.Peer, in.Service, in.URL); err != nil {
			return &ops.UsageError{Err: err}
		}
		return d.Dial(in.Peer, in.Service, in.URL)
	})
	do(apiHangup, func(in serviceRequest) error { return d.Hangup(in.Peer, in.Service, in.URL) })
}

func handleMembership(mux *http.ServeMux, d Membership) {
	ops.Handle(mux, apiInvite, func(ctx context.Context, in inviteRequest) (inviteAnswer, error) {
		ctx, cancel := context.WithTimeout(ctx, coordinatorWait)
		defer cancel()
		link, err := d.Invite(ctx, in.Expires)
		return inviteAnswer{link}, err
	})
	ops.Handle(mux, apiPending, func(ctx context.Context, _ nothing) ([]PendingMember, error) {
		ctx, cancel := context.WithTimeout(ctx, coordinatorWait)
		defer cancel()
		return d.Pending(ctx)
	})
	ops.Handle(mux, apiApprove, func(ctx context.Context, in memberRequest) (nothing, error) {
		ctx, cancel := context.WithTimeout(ctx, coordinatorWait)
		defer cancel()
		return nothing{}, d.Approve(ctx, in.Name, in.Fingerprint)
	})
	ops.Handle(mux, apiRevoke, func(ctx context.Context, in memberRequest) (nothing, error) {
		ctx, cancel := context.WithTimeout(ctx, coordinatorWait)
		defer cancel()
		return nothing{}, d.Revoke(ctx, in.Name)
	})
}

func checkPeer(name string) error {
	if err := CheckName("peer", name); err != nil {
		return &ops.UsageError{Err: err}
	}
	return nil
}

// normal is s as --json prints it: no list is null, times are in UTC, to the
// millisecond.
func (s Status) normal() Status {
	s.Services, s.Dials = notNull(s.Services), notNull(s.Dials)
	peers := make([]PeerStatus, len(s.Peers))
	for i, p := range s.Peers {
		p.Paths, p.Since = notNull(p.Paths), p.Since.UTC().Truncate(time.Millisecond)
		peers[i] = p
	}
	s.Peers = peers
	return s
}

func (e Explain) normal() Explain {
	attempts := make([]Attempt, len(e.Attempts))
	for i, a := range e.Attempts {
		a.Started = a.Started.UTC().Truncate(time.Millisecond)
		attempts[i] = a
	}
	e.Attempts = attempts
	return e
}

func notNull[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
