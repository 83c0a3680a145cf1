package rendezvous

import (
	"sync"
	"time"

	"rendezvous/internal/sources"
	"rendezvous/proto"
)

// presence is who is online: which control connection a member's key has now.
// It is a table: it sends and closes nothing.
type presence struct {
	mu     sync.Mutex
	online map[Key]*attendance
	past   map[Key]*past
}

// attendance is a registered agent. Its fields but conn and since are guarded
// by presence.mu; outside, a copy is used.
type attendance struct {
	conn     *agentConn
	name     string
	instance uint64
	version  string
	record   *proto.Signed
	standing *proto.Standing
	since    time.Time
	asks     sources.Bucket // introductions that it asked for
	offers   sources.Bucket // introductions that it was asked into
}

// past remembers the instances of an agent that were replaced, to tell two
// agents with one key from one agent that moves.
type past struct {
	replaced map[uint64]time.Time
	said     bool
}

// Two agents with one key replace each other again and again. An agent that
// moves or restarts never comes back with an instance that was replaced.
const (
	flapWithin = 10 * time.Minute
	maxPast    = 16 // instances of one key
	maxPasts   = 1024
)

func newPresence() *presence {
	return &presence{online: map[Key]*attendance{}, past: map[Key]*past{}}
}

// arrive puts the agent in its key's place. It gives the connection that had
// it before, when that is another one, and whether it became clear just now
// that two agents use the key.
func (p *presence) arrive(now time.Time, key Key, a attendance) (replaced *agentConn, flapping bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.online[key]
	if old != nil {
		a.asks, a.offers = old.asks, old.offers // a new connection brings no new tokens
		if old.conn != a.conn {
			replaced = old.conn
			flapping = p.flaps(now, key, old.instance, a.instance)
		} else {
			a.since = old.since
		}
	}
	p.online[key] = &a
	return replaced, flapping
}

func (p *presence) flaps(now time.Time, key Key, old, instance uint64) bool {
	if old == instance {
		return false
	}
	h := p.past[key]
	if h == nil {
		if len(p.past) >= maxPasts {
			clear(p.past)
		}
		h = &past{replaced: map[uint64]time.Time{}}
		p.past[key] = h
	}
	if len(h.replaced) >= maxPast {
		clear(h.replaced)
	}
	h.replaced[old] = now
	at, was := h.replaced[instance]
	if !was || now.Sub(at) > flapWithin || h.said {
		return false
	}
	h.said = true
	return true
}

// leave takes the connection's agent off, and says whether it was on.
func (p *presence) leave(key Key, conn *agentConn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a := p.online[key]; a == nil || a.conn != conn {
		return false
	}
	delete(p.online, key)
	return true
}

// find is a copy of the agent's entry.
func (p *presence) find(key Key) (attendance, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.online[key]
	if a == nil {
		return attendance{}, false
	}
	return *a, true
}

// all are copies of all entries.
func (p *presence) all() map[Key]attendance {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make(map[Key]attendance, len(p.online))
	for k, a := range p.online {
		out[k] = *a
	}
	return out
}

// setStanding keeps what introductions to the agent begin with.
func (p *presence) setStanding(key Key, conn *agentConn, s *proto.Standing) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.online[key]
	if a == nil || a.conn != conn {
		return false
	}
	a.standing = s
	return true
}

// mayIntroduce takes a token of both agents, for an introduction.
func (p *presence) mayIntroduce(now time.Time, from, to Key) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, b := p.online[from], p.online[to]
	return a != nil && b != nil && a.asks.Take(now, rateAsks) && b.offers.Take(now, rateOffers)
}
