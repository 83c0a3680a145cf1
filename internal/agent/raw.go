package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// rawKey names a flow of a raw service: the number and the run of the dialing
// agent that gave it.
type rawKey struct {
	flow     uint16
	instance uint64
}

// rawState is the 5-tuple that a raw flow has, wants or had.
type rawState struct {
	child    *association // the one whose paths the flow uses
	dialing  bool         // we began it
	busy     bool
	failures int
	retryAt  time.Time
}

const (
	// maxRaw bounds the raw flows with sockets of their own, each side's three;
	// further ones stay sealed in the session.
	maxRaw       = 64
	rawRetry     = 2 * time.Second
	rawRetryMost = 5 * time.Minute
)

// Raw gives a flow a 5-tuple of its own (forward.Carrier). Until that works
// the flow's datagrams cross sealed.
func (p *peer) Raw(flow uint16, instance uint64) {
	key := rawKey{flow, instance}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.raws[key] != nil || len(p.raws) >= maxRaw {
		return
	}
	p.raws[key] = &rawState{dialing: true}
	p.startRaw(key)
}

// startRaw is called with p.mu held.
func (p *peer) startRaw(key rawKey) {
	st := p.raws[key]
	if st.busy {
		return
	}
	st.busy = true
	p.a.tasks.start(func(ctx context.Context) {
		direct, err := p.raiseRaw(ctx, key)
		p.mu.Lock()
		defer p.mu.Unlock()
		st.busy = false
		switch {
		case err == nil && direct:
			st.failures, st.retryAt = 0, time.Time{}
		default:
			st.retryAt = time.Now().Add(min(rawRetry<<min(st.failures, 10), rawRetryMost))
			st.failures++
		}
	})
}

// raiseRaw makes a child session on new sockets and climbs with it.
func (p *peer) raiseRaw(ctx context.Context, key rawKey) (direct bool, err error) {
	as := p.association()
	secret, ok := p.a.cfg.State.Secret()
	if as == nil || !as.Ready() || !ok {
		return false, errors.New("no session with the peer")
	}
	m := &proto.RawFlow{Flow: uint32(key.flow), Instance: key.instance, Seed: make([]byte, 32)}
	if _, err := rand.Read(m.Seed); err != nil {
		return false, err
	}
	child := p.newAssociation(seal.DeriveProbeKeys(m.Seed, secret, true), true, m)
	defer p.settleRaw(child)
	udp := []path.Kind{path.DirectUDP}
	o, err := child.openKinds(udp, 1, nil)
	if err != nil {
		return false, err
	}
	f := freshening{mine: o.gather(ctx), ports: &freshPorts{openings: o, wanted: udp}, target: child}
	err = as.fresh(ctx, &proto.Again{Raw: m}, f)
	o.close()
	if !child.Ready() {
		return false, errors.Join(err, errors.New("no path of its own for the raw flow"))
	}
	return child.Best() == path.DirectUDP, err
}

// settleRaw closes a child that its flow does not use once its climb is over,
// so that nothing keeps its sockets and mappings alive.
func (p *peer) settleRaw(child *association) {
	p.mu.Lock()
	st := p.raws[rawKeyOf(child)]
	used := st != nil && st.child == child
	p.mu.Unlock()
	if !used {
		child.close()
	}
}

// offeredRaw prepares the far side's child session.
func (p *peer) offeredRaw(m *proto.RawFlow) (*association, error) {
	secret, ok := p.a.cfg.State.Secret()
	if !ok {
		return nil, errWaiting
	}
	flow := uint16(m.GetFlow())
	if len(m.GetSeed()) != 32 || !p.flows.IsRaw(flow, m.GetInstance()) {
		return nil, errors.New("no such raw flow")
	}
	key := rawKey{flow, m.GetInstance()}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.raws[key] == nil {
		if len(p.raws) >= maxRaw {
			return nil, errors.New("too many raw flows")
		}
		p.raws[key] = &rawState{}
	}
	return p.newAssociation(seal.DeriveProbeKeys(m.GetSeed(), secret, false), false, m), nil
}

func rawKeyOf(child *association) rawKey {
	return rawKey{uint16(child.raw.GetFlow()), child.raw.GetInstance()}
}

// rawMoved lets a flow's datagrams take the paths of child.
func (p *peer) rawMoved(child *association) {
	key := rawKeyOf(child)
	p.mu.Lock()
	st := p.raws[key]
	if st == nil {
		p.mu.Unlock()
		child.close()
		return
	}
	old := st.child
	if old != nil && old != child && old.Best() == path.DirectUDP && child.Best() != path.DirectUDP {
		p.mu.Unlock()
		return // what there is, is better
	}
	st.child = child
	p.mu.Unlock()
	// While its path is in doubt the session carries the flow: to send on both
	// would deliver twice, for nothing tells raw datagrams apart.
	p.flows.SetRaw(key.flow, key.instance, func(only path.Kinds, b dgram.Burst) bool {
		return child.Ready() && !child.Doubtful() && (only == 0 || only.Has(child.Best())) && child.Send(0, b)
	})
	if old != nil && old != child {
		time.AfterFunc(linger, old.close)
	}
}

// rawLost puts a flow back into the session.
func (p *peer) rawLost(child *association) {
	key := rawKeyOf(child)
	p.mu.Lock()
	st := p.raws[key]
	mine := st != nil && st.child == child
	if mine {
		st.child = nil
		st.retryAt = time.Now()
	}
	p.mu.Unlock()
	if mine {
		p.flows.SetRaw(key.flow, key.instance, nil)
	}
	child.close()
}

// rawAgain looks for a direct path of its own again, with a new child.
func (p *peer) rawAgain(child *association) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := rawKeyOf(child)
	if st := p.raws[key]; st != nil && st.dialing && st.child == child {
		p.startRaw(key)
	}
}

// tendRaws ends the children of flows that are gone and tries those again
// that have no direct path.
func (p *peer) tendRaws(now time.Time) {
	p.mu.Lock()
	keys := make([]rawKey, 0, len(p.raws))
	for key := range p.raws {
		keys = append(keys, key)
	}
	p.mu.Unlock()
	for _, key := range keys {
		alive := p.flows.IsRaw(key.flow, key.instance)
		p.mu.Lock()
		st := p.raws[key]
		switch {
		case st == nil:
		case !alive && !st.busy:
			delete(p.raws, key)
			if st.child != nil {
				st.child.close()
			}
		case alive && st.dialing && !st.retryAt.IsZero() && now.After(st.retryAt):
			st.retryAt = time.Time{}
			p.startRaw(key)
		}
		p.mu.Unlock()
	}
}

// closeRaws ends every raw flow's own paths, for good: what is still at work
// on one finds no state and closes its child.
func (p *peer) closeRaws() {
	p.mu.Lock()
	raws := p.raws
	p.raws = make(map[rawKey]*rawState)
	p.mu.Unlock()
	for key, st := range raws {
		if st.child != nil {
			p.flows.SetRaw(key.flow, key.instance, nil)
			st.child.close()
		}
	}
}
