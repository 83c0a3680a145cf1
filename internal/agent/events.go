package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/ops"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// errOffline is why nothing can be introduced.
var errOffline = errors.New("no connection to the coordinator")

// event handles one message that we did not ask for. What takes time runs
// apart; the order of answers to one introduction is kept by its channel.
func (l *link) event(_ context.Context, m *proto.ToAgent) {
	arrived := time.Now()
	switch b := m.Body.(type) {
	case *proto.ToAgent_Answer:
		l.answers.deliver(b.Answer.GetIntroduction(), m)
	case *proto.ToAgent_Go:
		l.answers.deliver(b.Go.GetIntroduction(), m)
	case *proto.ToAgent_Offer:
		l.a.tasks.start(func(ctx context.Context) { l.offered(ctx, b.Offer, arrived) })
	case *proto.ToAgent_Admitted:
		l.a.tasks.start(func(context.Context) { l.admitted(b.Admitted) })
	case *proto.ToAgent_Revocation:
		if err := l.a.applyRevocation(b.Revocation); err != nil {
			l.a.refusals.note(l.a, "revocation", err)
		}
	case *proto.ToAgent_PublicLegs:
		l.a.public.granted(b.PublicLegs)
	case *proto.ToAgent_PublicClient:
		l.a.public.clientIs(b.PublicClient)
	case *proto.ToAgent_Goodbye:
		l.a.cfg.Log.Info().Msg("the coordinator is about to stop; what runs directly goes on")
	case *proto.ToAgent_Error:
		l.a.refusals.note(l.a, "coordinator", errors.New(ops.Plain(b.Error.GetText())))
	}
}

// offered answers an introduction, or declines it and says why.
func (l *link) offered(ctx context.Context, o *proto.Offer, arrived time.Time) {
	var opening proto.Opening
	err := proto.Unmarshal(o.GetBody(), &opening)
	if err == nil {
		switch b := opening.Body.(type) {
		case *proto.Opening_Handshake:
			err = l.a.offeredHandshake(ctx, o, b.Handshake, arrived)
		case *proto.Opening_Sealed:
			err = l.a.offeredAgain(ctx, o, b.Sealed)
		default:
			err = errors.New("an introduction of a kind that this version does not know")
		}
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	if isForgery(err) {
		l.a.forged(o.GetFrom().GetName(), err)
	}
	l.a.cfg.Log.Debug().Str("peer", o.GetFrom().GetName()).Err(err).Msg("introduction declined")
	_ = l.send(&proto.ToCoordinator{Body: &proto.ToCoordinator_Reply{Reply: &proto.Reply{
		Introduction: o.GetIntroduction(), Declined: err.Error(),
	}}})
}

func isForgery(err error) bool {
	return errors.Is(err, errForged) || errors.Is(err, seal.ErrForged) || errors.Is(err, seal.ErrSignature) ||
		errors.Is(err, seal.ErrSigner) || errors.Is(err, seal.ErrMAC) || errors.Is(err, seal.ErrPeer)
}

// admitted takes the network's secret that a member sealed for us.
func (l *link) admitted(m *proto.Admitted) {
	if _, ok := l.a.cfg.State.Secret(); ok {
		return
	}
	secret, err := openAdmission(l.a.id, m)
	if err == nil {
		err = l.a.cfg.State.SetSecret(secret)
	}
	if err != nil {
		l.a.refusals.note(l.a, "admission", fmt.Errorf("admission by %q: %w", m.GetBy().GetName(), err))
		return
	}
	l.a.cfg.Log.Info().Str("by", m.GetBy().GetName()).Str("fingerprint", seal.Fingerprint(m.GetBy().GetKey())).
		Msg("admitted to the network; compare the fingerprint with that of the member who approved this agent")
	// Register anew, with a record that carries its MAC.
	l.mu.Lock()
	client := l.client
	l.mu.Unlock()
	if client != nil {
		_ = client.Close()
	}
	l.check()
}

func (l *link) current() *Connection {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.client
}

// call asks the coordinator and waits for its answer; where there is no
// connection it waits a moment for one.
func (l *link) call(ctx context.Context, m *proto.ToCoordinator) (*proto.ToAgent, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	l.mu.Lock()
	registered := l.registered
	l.mu.Unlock()
	select {
	case <-registered:
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.err != nil {
			return nil, fmt.Errorf("%w: %w", errOffline, l.err)
		}
		return nil, errOffline
	}
	client := l.current()
	if client == nil {
		return nil, errOffline
	}
	return client.Call(ctx, m)
}

func (l *link) send(m *proto.ToCoordinator) error {
	client := l.current()
	if client == nil {
		return errOffline
	}
	return client.Send(m)
}

func (l *link) reply(introduction uint64, body []byte) error {
	return l.send(&proto.ToCoordinator{Body: &proto.ToCoordinator_Reply{Reply: &proto.Reply{Introduction: introduction, Body: body}}})
}

// rtt is the round trip to the coordinator, a bound for that to a peer.
func (l *link) rtt() time.Duration {
	if c := l.current(); c != nil {
		return c.RTT()
	}
	return 0
}

// linkIsBack lets a peer's session ask for what it missed meanwhile. A peer
// that is dialed is looked up now, so that its first client need not wait.
func (p *peer) linkIsBack(ctx context.Context) {
	if p.member().Key == nil && p.dialed() {
		p.a.tasks.start(func(context.Context) {
			if _, err := p.a.lookUp(ctx, p.name); err != nil {
				p.a.cfg.Log.Debug().Str("peer", p.name).Err(err).Msg("a dialed peer is not known yet")
			}
		})
	}
	p.mu.Lock()
	p.tries.retryAt, p.tries.failures = time.Time{}, 0
	p.mu.Unlock()
	if as := p.association(); as != nil {
		as.refreshLegs()
		as.needSpare()
		return
	}
	if p.inDemand() {
		p.want("restart")
	}
	p.meet()
}

// meet learns the keys of a peer that is dialed and that we never met, so that
// its first datagram needs no round trip for that.
func (p *peer) meet() {
	if p.member().Key == nil && p.dialed() {
		p.a.tasks.start(func(ctx context.Context) {
			// An error comes again, to be told, with the first datagram.
			_, _ = p.identify(ctx)
		})
	}
}

// refusals logs what was refused, each kind at most once a minute, and counts
// all of it.
type refusals struct {
	forgeries  atomic.Uint64
	candidates atomic.Uint64 // that peers offered and that nothing is sent to
	floods     atomic.Uint64 // attempts that RSTs without end slowed down
	mu         sync.Mutex
	noted      map[string]time.Time
}

const noteEvery = time.Minute

func (r *refusals) note(a *Agent, what string, err error) {
	r.mu.Lock()
	if r.noted == nil {
		r.noted = make(map[string]time.Time)
	}
	again := time.Since(r.noted[what]) < noteEvery && !r.noted[what].IsZero()
	if !again {
		r.noted[what] = time.Now()
	}
	r.mu.Unlock()
	if !again {
		a.cfg.Log.Warn().Str("about", what).Err(err).Msg("refused")
	}
}

// forged notes a forgery about a member, of whom we may never have heard: names
// that the coordinator makes up must not fill memory.
func (a *Agent) forged(name string, err error) {
	a.peers.mu.Lock()
	p := a.peers.byName[name]
	a.peers.mu.Unlock()
	if p != nil {
		a.refusals.forged(p, err)
		return
	}
	a.refusals.forgeries.Add(1)
	a.refusals.note(a, "forgery for a stranger", err)
}

// forged notes that the coordinator handed out what the peer did not make.
func (r *refusals) forged(p *peer, err error) {
	r.forgeries.Add(1)
	p.record(forgedAttempt(err))
	r.note(p.a, "forgery for "+p.name, err)
}
