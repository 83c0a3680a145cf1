package rendezvous

import (
	"slices"
	"sync/atomic"
	"time"

	"rendezvous/internal/relay"
	"rendezvous/proto"
)

// publicReason is why a public port dropped datagrams.
type publicReason int

const (
	publicNoAgent    publicReason = iota // no agent is there for it
	publicRate                           // too many new clients
	publicSourceRate                     // too many of one source
	publicFull                           // too many clients
	publicWaiting                        // too many new clients wait for a leg
	publicHeld                           // one that waits sent too much
	publicLate                           // no leg came in time
	publicForged                         // what came from the agent did not open
	publicRefused                        // TCP: the agent did not take it
	publicBroken                         // TCP: it broke off
	publicIncomplete                     // a part of what came from the agent was lost
	publicReasons                        // their number
)

var publicReasonNames = [publicReasons]string{
	"no-agent", "new-client-rate", "source-rate", "full", "too-many-waiting", "held-too-much", "held-too-long", "forged", "refused", "broken", "incomplete",
}

// publicCounts are totals of a port.
type publicCounts struct {
	drops            [publicReasons]atomic.Uint64
	started, evicted atomic.Uint64 // clients that got a leg, and that lost it to another
	split            atomic.Uint64 // datagrams that were too large for a sealed leg, of legs that have ended
}

// all are the drops by reason.
func (c *publicCounts) all() map[string]uint64 {
	out := make(map[string]uint64, publicReasons)
	for why, name := range publicReasonNames {
		out[name] = c.drops[why].Load()
	}
	return out
}

func (c *publicCounts) drop(why publicReason, n int) { c.drops[why].Add(uint64(n)) }

// changed looks at an allocation again: its agent's leg was bound or lost.
func (t *publicTable) changed(id proto.Token) {
	t.mu.Lock()
	bound, alive := t.relay.Ready(id)
	if c := t.byLeg[id]; c != nil && !alive {
		t.forget(c)
	}
	s := t.spare[id]
	switch {
	case s == nil:
	case !alive:
		t.dropSpare(id)
		t.kick()
	case bound && !s.bound:
		s.bound, t.heard = true, time.Now()
		t.ready = append(t.ready, id)
	case !bound && s.bound:
		s.bound = false
		t.unready(id)
	}
	t.mu.Unlock()
	t.serveLine()
}

// serveLine gives the spares that are ready to those who wait.
func (t *publicTable) serveLine() {
	for {
		now := time.Now()
		t.mu.Lock()
		if len(t.ready) == 0 {
			t.mu.Unlock()
			return
		}
		w := t.line.first()
		if w == nil {
			t.mu.Unlock()
			return
		}
		c := t.attach(now, w.door, w.addr)
		if c == nil {
			t.line.back(w)
		}
		t.mu.Unlock()
		if c != nil {
			t.handOver(now, w, c)
		}
	}
}

// handOver sends what the client has sent so far, in its order: what comes
// meanwhile waits behind that.
func (t *publicTable) handOver(now time.Time, w *waiter, c *publicClient) {
	for {
		t.mu.Lock()
		held := t.line.take(w)
		if len(held) == 0 {
			t.line.leave(w)
			if t.byLeg[c.id] == c {
				w.door.clients[w.addr] = c
			}
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		for _, b := range held {
			c.forward(now, b)
		}
	}
}

// dropSpare forgets a spare. publicTable.mu is held.
func (t *publicTable) dropSpare(id proto.Token) {
	delete(t.spare, id)
	t.unready(id)
}

func (t *publicTable) unready(id proto.Token) {
	if i := slices.Index(t.ready, id); i >= 0 {
		t.ready = slices.Delete(t.ready, i, i+1)
	}
}

// Bounds of a port's spares.
const (
	maxSpares     = 256 // an agent can ask for that many, and as many clients may wait for one
	defaultSpares = 4
	legsAtOnce    = 64 // allocations in one message
)

// topUp promises allocations until there is one for each who waits and the
// spares beside. It gives none while no agent is there to bind them.
func (t *publicTable) topUp(now time.Time) (out []relay.Allocation) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.agent {
		return nil
	}
	want := t.granted.spares + min(t.line.len(), maxSpares)
	want = min(want, t.rule.MaxClients+t.granted.spares-len(t.byLeg))
	for len(t.spare) < want && len(out) < legsAtOnce {
		a, err := t.relay.Promise(now, t.granted.terms)
		if err != nil {
			break // counted by the relay; tried again with the next expire
		}
		t.spare[a.ID] = &publicSpare{alloc: a}
		out = append(out, a)
	}
	return out
}

// expire lets nobody wait for too long, and gives back spares that only a rush
// of clients needed.
func (t *publicTable) expire(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count.drop(publicLate, t.line.expire(now, false))
	for t.line.len() == 0 && len(t.ready) > t.granted.spares {
		id := t.ready[0]
		t.dropSpare(id)
		t.relay.Release(now, id)
	}
}

// release ends legs that the agent gives back. It says how many there were.
func (t *publicTable) release(now time.Time, id proto.Token) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, s := t.byLeg[id], t.spare[id]
	switch {
	case c != nil:
		t.forget(c)
	case s != nil:
		t.dropSpare(id)
		t.kick()
	default:
		return false
	}
	t.relay.Release(now, id)
	return true
}

// arrived is that of clientele.
func (t *publicTable) arrived(now time.Time, _ string, anew bool, g publicGrant) {
	if anew {
		t.clear(now)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	g.terms.Bytes, g.terms.Datagrams, g.terms.Changed = t.rule.Bytes, t.rule.Datagrams, t.changed
	t.granted, t.agent, t.silent, t.alone = g, true, false, false
	for id, s := range t.spare {
		if !s.bound { // it may never have heard of it
			t.dropSpare(id)
			t.relay.Release(now, id)
		}
	}
}

// stands is that of clientele: the agent's legs stay as long as it binds them.
func (t *publicTable) stands(is publicStanding) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch is {
	case publicLeft:
		t.agent, t.alone = false, t.silent && t.alone
	case publicSilent:
		t.silent, t.alone = true, len(t.byLeg)+t.line.len() > 0
	case publicSpeaks:
		t.silent, t.alone = false, false
		return
	}
	t.count.drop(publicNoAgent, t.line.expire(time.Time{}, true))
}

// clear ends all legs: the agent has started anew and knows none of them, or
// the port is closed.
func (t *publicTable) clear(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, c := range t.byLeg {
		t.forget(c)
		t.relay.Release(now, id)
	}
	for id := range t.spare {
		t.dropSpare(id)
		t.relay.Release(now, id)
	}
	t.count.drop(publicNoAgent, t.line.expire(now, true))
}

// takeNews gives clients that the agent has not been told of, n at most.
func (t *publicTable) takeNews(n int) (out []*proto.PublicClient) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range t.news[:min(n, len(t.news))] {
		if c := t.byLeg[id]; c != nil {
			at := proto.NewEndpoint(c.addr)
			out = append(out, &proto.PublicClient{Id: id[:], Addr: at.GetAddr(), Port: at.GetPort()})
		}
	}
	t.news = t.news[min(n, len(t.news)):]
	if len(t.news) == 0 {
		t.news = nil
	}
	return out
}

// publicFigures are the table's now.
type publicFigures struct {
	clients, ready, spares, waiting int
	silent                          bool // the agent does not answer
	alone                           bool // somebody came while no agent was there
	started, evicted, split         uint64
	drops                           map[string]uint64
}

// figures are that of clientele.
func (t *publicTable) figures() publicFigures {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	f := publicFigures{
		clients: len(t.byLeg), ready: len(t.ready), spares: len(t.spare), waiting: t.line.len(),
		silent: t.silent, alone: t.alone, started: t.count.started.Load(), evicted: t.count.evicted.Load(), split: t.count.split.Load(), drops: t.count.all(),
	}
	for _, c := range t.byLeg {
		if c.codec == nil {
			break // of a raw port none has one
		}
		f.drops[publicReasonNames[publicForged]] += c.codec.Dropped()
		f.drops[publicReasonNames[publicIncomplete]] += c.codec.Incomplete(now)
		f.split += c.codec.Split()
	}
	return f
}
