package meet

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/internal/session"
	"rendezvous/proto"
)

// talk is a session with whoever knows the secret. Several may be under way
// until one is proven to be with the peer of now: what was recorded of an
// earlier meeting opens too.
type talk struct {
	*session.Session
	m         *meeting
	initiator bool
	peer      uint64 // the ID of the peer's attempt to meet
	half      proto.Half
	message   []byte // the first one, which was answered
	answer    []byte
	cancel    context.CancelFunc
}

// talks are all there are.
type talks struct {
	byToken map[proto.Token]*talk
	byAddr  map[netip.AddrPort]*talk
	offered []*talk // whose first message we have answered, the oldest first
}

// maxOffered bounds the answers that nobody may ever take up, and maxAddrs the
// addresses that are routed by.
const (
	maxOffered = 4
	maxAddrs   = 64
)

func newTalks() talks {
	return talks{byToken: make(map[proto.Token]*talk), byAddr: make(map[netip.AddrPort]*talk)}
}

// answered is the talk that a first message began, nil where none did.
func (t *talks) answered(message []byte) *talk {
	for _, o := range t.offered {
		if bytes.Equal(o.message, message) {
			return o
		}
	}
	return nil
}

func (t *talks) remove(gone *talk) {
	delete(t.byToken, gone.Token())
	for addr, at := range t.byAddr {
		if at == gone {
			delete(t.byAddr, addr)
		}
	}
	for i, o := range t.offered {
		if o == gone {
			t.offered = append(t.offered[:i:i], t.offered[i+1:]...)
			break
		}
	}
	gone.end()
}

// newTalk begins a session under the keys of a handshake. Caller holds m.mu.
func (m *meeting) newTalk(keys seal.Keys, initiator bool, theirs proto.Greeting) *talk {
	t := &talk{m: m, initiator: initiator, peer: theirs.ID, half: settle(m.half, theirs.Half, initiator)}
	t.Session = session.New(session.Config{
		Probe: seal.DeriveProbeKeys(keys.Export[:], m.cfg.Secret, initiator), Initiator: initiator, Handler: t, Rekey: rekeyer{m.cfg.Secret},
	})
	t.Establish(keys)
	var ctx context.Context
	ctx, t.cancel = context.WithCancel(m.ctx)
	m.talks.byToken[t.Token()] = t
	m.tasks.Go(func() { t.Run(ctx) })
	return t
}

// settle is our half of the flows' numbers: flows outlive sessions, so who has
// one keeps it.
func settle(mine, theirs proto.Half, initiator bool) proto.Half {
	switch {
	case mine != proto.EitherHalf:
		return mine
	case theirs != proto.EitherHalf:
		return theirs.Other()
	case initiator:
		return proto.LowerHalf
	}
	return proto.UpperHalf
}

func (t *talk) end() {
	t.Close()
	t.cancel()
}

// Deliver hands datagrams to the flows.
func (t *talk) Deliver(flow uint16, b dgram.Burst) {
	if flows := t.m.carried(t); flows != nil {
		flows.Deliver(flow, b)
	}
}

// Frame handles control from the peer.
func (t *talk) Frame(f *proto.Frame) {
	flows := t.m.carried(t)
	if flows == nil {
		return
	}
	if bye := f.GetBye(); bye != nil {
		give(t.m.signals.ended, bye.GetReason())
		return
	}
	flows.Frame(f)
}

// Event reacts to what became of the path.
func (t *talk) Event(e session.Event) {
	switch e {
	case session.Confirmed:
		t.m.adopt(t)
	case session.BestChanged:
		t.m.moved(t)
	case session.Lost:
		if t.m.talk() == t {
			give(t.m.signals.lost, struct{}{})
		}
	}
}

// carried is the flows if t is the session that carries them.
func (m *meeting) carried(t *talk) *forward.Flows {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current != t {
		return nil
	}
	return m.flows
}

// adopt makes t the session that carries the flows; its peer has proven to know
// the secret now.
func (m *meeting) adopt(t *talk) {
	m.mu.Lock()
	if m.current == t || m.talks.byToken[t.Token()] != t || m.ctx.Err() != nil {
		m.mu.Unlock()
		return
	}
	m.current, m.half = t, t.half
	for _, other := range m.talks.byToken {
		if other != t {
			m.talks.remove(other)
		}
	}
	flows, first := m.flows, m.flows == nil
	if first {
		flows = forward.New(forward.Config{Carrier: m, Instance: m.instance, Low: t.half == proto.LowerHalf,
			Services: m.cfg.Services, Network: m.cfg.Network, Resolve: m.cfg.Resolve, Peer: "peer"})
		m.flows = flows
	}
	m.mu.Unlock()
	if first {
		for _, d := range m.cfg.Dials {
			if _, err := flows.Listen(d.Service, d.Listen, 0); err != nil {
				give(m.signals.fault, err)
				return
			}
		}
	}
	m.show("")
	m.opened(t, Open)
	give(m.signals.met, struct{}{})
	flows.Reopen()
}

// show notes where data goes, and says whether that is news.
func (m *meeting) show(addr string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	news := m.shown != addr
	m.shown = addr
	return news
}

// opened tells where the data goes, unless that was told.
func (m *meeting) opened(t *talk, what string) {
	for _, r := range t.Paths() {
		// The responder may have the keys confirmed before its own probe is
		// answered.
		if r.State == session.StateBest || what == Open && r.State == session.StateTrying {
			if m.show(r.Path.Addr.String()) {
				m.tell(Event{What: what, Addr: r.Path.Addr.String(), RTT: float64(r.RTT.Microseconds()) / 1000})
			}
			return
		}
	}
}

// moved notes that data takes another path, or one again.
func (m *meeting) moved(t *talk) {
	if m.talk() != t || t.Best() == path.None {
		return
	}
	m.opened(t, Moved)
	give(m.signals.met, struct{}{})
}

// rekeyer makes new keys by the same handshake.
type rekeyer struct{ secret seal.Secret }

// Initiate begins one.
func (r rekeyer) Initiate() ([]byte, func([]byte) (seal.Keys, error), error) {
	h, message, err := seal.Meet(r.secret, nil)
	if err != nil {
		return nil, nil, err
	}
	return message, func(answer []byte) (seal.Keys, error) {
		k, _, err := h.Finish(answer)
		return k, err
	}, nil
}

// Respond answers one.
func (r rekeyer) Respond(message []byte) ([]byte, seal.Keys, error) {
	answer, k, err := seal.Met(r.secret, message, func([]byte) ([]byte, error) { return nil, nil })
	if err != nil {
		return nil, seal.Keys{}, fmt.Errorf("new keys: %w", err)
	}
	return answer, k, nil
}
