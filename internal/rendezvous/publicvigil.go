package rendezvous

import (
	"context"
	"sync"
	"time"
)

// A vigil finds out that an agent is gone which could not say so: it was killed,
// or a cable was pulled. Its control connection would end after idleAfter only. So
// when a client waits, some sign of the agent is wanted: what its service says,
// a leg that it binds, anything on the control connection. Most vigils end with
// the answer that the client gets, and cost nothing.
const (
	vigilQuiet  = 500 * time.Millisecond // for a sign that comes by itself, before one is asked for
	vigilAnswer = 2 * time.Second        // and vigilTrips round trips, for the answer: a lost one is sent again meanwhile
	vigilTrips  = 3
	vigilLook   = 100 * time.Millisecond
	vigilRest   = 3 * time.Second // after a sign of life, in which no client wakes doubt
)

// vigils are the doubts about agents, one at most about each.
type vigils struct {
	ctx  context.Context // ends with the coordinator
	stop context.CancelFunc

	mu   sync.Mutex
	over bool
	next map[Key]time.Time // no other one begins before; the zero time while one is held
}

func (v *vigils) begin() {
	v.ctx, v.stop = context.WithCancel(context.Background())
	v.next = map[Key]time.Time{}
}

// end lets none begin any more; those that are held end soon.
func (v *vigils) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.over = true
	v.stop()
}

// take begins a vigil over the agent, if one may begin now.
func (v *vigils) take(now time.Time, key Key, begin func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	next, known := v.next[key]
	if v.over || known && (next.IsZero() || now.Before(next)) {
		return
	}
	v.next[key] = time.Time{}
	begin()
}

// rest notes the end of a vigil.
func (v *vigils) rest(now time.Time, key Key) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for other, until := range v.next { // nobody else looks after them
		if !until.IsZero() && !now.Before(until) {
			delete(v.next, other)
		}
	}
	v.next[key] = now.Add(vigilRest)
}

// doubt has a vigil held over a member's agent, since a client of it waits. It
// does not wait itself.
func (p *publicPorts) doubt(key Key) {
	p.vigils.take(time.Now(), key, func() {
		p.readers.Go(func() {
			p.vigil(p.vigils.ctx, key)
			p.vigils.rest(time.Now(), key)
		})
	})
}

// vigil waits for a sign of life of a member's agent. Without one its ports are
// without an agent until there is one again.
func (p *publicPorts) vigil(ctx context.Context, key Key) {
	since := p.signs(key)
	if p.hear(ctx, since, vigilQuiet) {
		return
	}
	for silent := false; ctx.Err() == nil && len(p.of(key)) > 0; silent = true {
		patience := vigilAnswer
		if conn := p.connOf(key); conn != nil {
			patience += vigilTrips * conn.roundTrip()
			conn.ask()
		}
		if !p.hear(ctx, since, patience) {
			if !silent {
				p.stand(key, publicSilent)
			}
			continue
		}
		if silent {
			p.stand(key, publicSpeaks)
		}
		return
	}
}

// stand tells a member's ports what became of the agent.
func (p *publicPorts) stand(key Key, is publicStanding) {
	ports := p.of(key)
	for _, port := range ports {
		port.stands(is)
	}
	if is == publicSilent {
		p.streams.giveUp(key)
	}
	if is == publicSpeaks && len(ports) > 0 {
		p.server.log.Info().Str("agent", p.ownerOf(ports[0]).member).Msg("public ports: their agent answers again")
	}
}

// giveUp resets the clients that the agent has not taken.
func (p *publicStreams) giveUp(key Key) {
	p.mu.Lock()
	c := p.conns[key]
	p.mu.Unlock()
	if c != nil {
		c.GiveUp(errPublicSilent)
	}
}

// signs are what an agent has shown of itself.
type signs struct {
	key     Key
	at      time.Time
	conn    *agentConn // nil while there is none
	control uint64
	streams uint64
}

func (p *publicPorts) signs(key Key) signs {
	s := signs{key: key, at: time.Now(), conn: p.connOf(key)}
	if s.conn != nil {
		s.control = s.conn.heard()
	}
	p.streams.mu.Lock()
	if c := p.streams.conns[key]; c != nil {
		s.streams = c.Heard()
	}
	p.streams.mu.Unlock()
	return s
}

// connOf is the control connection that serves a member's ports.
func (p *publicPorts) connOf(key Key) *agentConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range p.ports {
		if port.key == key && port.conn != nil {
			return port.conn
		}
	}
	return nil
}

// hear waits for a sign that is newer than those.
func (p *publicPorts) hear(ctx context.Context, since signs, within time.Duration) bool {
	look := time.NewTicker(vigilLook)
	defer look.Stop()
	limit := time.NewTimer(within)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-limit.C:
			return false
		case <-look.C:
		}
		if p.newer(since) {
			return true
		}
	}
}

func (p *publicPorts) newer(since signs) bool {
	now := p.signs(since.key)
	if now.conn != nil && (now.conn != since.conn || now.control != since.control) || now.streams != since.streams {
		return true
	}
	for _, port := range p.of(since.key) {
		if port.table != nil && port.table.heardSince(since.at) {
			return true
		}
	}
	return false
}

// heardSince says whether the agent has bound a leg since then, or its service
// has said something.
func (t *publicTable) heardSince(at time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heard.After(at) {
		return true
	}
	for _, c := range t.byLeg {
		if _, service := c.leg.Used(); service.After(at) {
			return true
		}
	}
	return false
}

// A client of before waits while it has said something that nobody has answered
// for waitsFor. Services that answer nothing are asked for a sign now and then.
const (
	waitsFor = time.Second
	waitsOf  = 2 * time.Second // how long ago it may have been
)

// waits says whether a client waits while the service says nothing to anybody.
func (t *publicTable) waits(now time.Time) (waits bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.silent || !t.agent && len(t.byLeg) == 0 {
		return false
	}
	for _, c := range t.byLeg {
		client, service := c.leg.Used()
		if now.Sub(service) < vigilRest {
			return false
		}
		waits = waits || client.Sub(service) > waitsFor && now.Sub(client) < waitsOf
	}
	return waits
}
