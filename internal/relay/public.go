package relay

import (
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

// An agent's silence on a public leg ends it after its keepalive and that.
const publicGrace = 10 * time.Second

// Terms are those of the promised legs of one public port: shared by all, and
// never changed.
type Terms struct {
	Member    string        // whose agent has leg 0
	Keepalive time.Duration // how often that binds it again
	// Bytes and Datagrams a second, for each direction of a client; 0: as in
	// Limits.
	Bytes, Datagrams float64
	// Changed tells that leg 0 was bound or lost, or that the allocation has
	// ended: look with Ready. It is called by whoever brought the change about
	// or found out, while no lock of the table is held, and must not block.
	Changed func(proto.Token)
}

// public is what an allocation has beyond others when its leg 1 is a client's
// address, attached by the coordinator.
type public struct {
	terms  *Terms
	client Client
	used   [2]atomic.Int64 // when the leg last sent payload, Unix nanoseconds; 0: never
}

// Client is leg 1 of an allocation, once it is a client's.
type Client struct {
	server *Server
	leg    *leg
}

// Promise makes an allocation with an agent's leg alone. It ends when that was
// not bound for long enough, by Release, or with its member. Its error is
// ErrLimited.
func (s *Server) Promise(now time.Time, t *Terms) (Allocation, error) {
	var out Allocation
	rand.Read(out.ID[:])
	rand.Read(out.Keys[0][:])
	a := &allocation{id: out.ID, members: [2]string{t.Member}, touched: now}
	a.legs[0] = leg{allocation: a, key: out.Keys[0]}
	a.legs[1] = leg{allocation: a, index: 1}
	rand.Read(a.legs[1].key[:]) // nobody has it, so nobody can bind that leg
	a.public = &public{terms: t, client: Client{s, &a.legs[1]}}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.living.public >= s.limits.Public {
		s.count.refused.Add(1)
		return Allocation{}, fmt.Errorf("%w: %d of public ports live here, the limit", ErrLimited, s.living.public)
	}
	s.allocations[a.id] = a
	s.living.public++
	return out, nil
}

// Ready says whether leg 0 is bound now, and whether the allocation lives.
func (s *Server) Ready(id proto.Token) (bound, alive bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.allocations[id]
	if a == nil || a.gone() {
		return false, false
	}
	return a.legs[0].at.Load() != nil, true
}

// Attach makes leg 1 the client at addr on conn, once. It is nil where the
// allocation has ended, has a client already, or is none of a public port.
func (s *Server) Attach(id proto.Token, conn dgram.Conn, addr netip.AddrPort) *Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.allocations[id]
	if a == nil || a.gone() || a.public == nil || a.legs[1].at.Load() != nil {
		return nil
	}
	a.legs[1].at.Store(&source{conn, addr})
	return &a.public.client
}

// Release ends a promised allocation: nobody needs it any more. Its agent is
// told at once, or hears so when it binds again.
func (s *Server) Release(now time.Time, id proto.Token) {
	s.mu.Lock()
	a := s.allocations[id]
	if a == nil || a.public == nil || a.gone() {
		s.mu.Unlock()
		return
	}
	at := a.legs[0].at.Load()
	s.end(a, now)
	var gone answer
	if at != nil {
		gone = a.legs[0].reply(*at)
	}
	s.mu.Unlock()
	if at != nil {
		gone.bound.Gone = true
		s.send(gone)
	}
}

// Forward sends the client's burst whole to where leg 0 is.
func (c *Client) Forward(now time.Time, b dgram.Burst) { c.server.forward(c.leg, b, now) }

// Used is when the client last sent something, and when the service last did:
// the zero time where it never did.
func (c *Client) Used() (client, service time.Time) {
	p := c.leg.allocation.public
	return nanoTime(p.used[1].Load()), nanoTime(p.used[0].Load())
}

func nanoTime(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n)
}

// changed are the allocations of public ports whose owners are to hear of a
// change, once the table is unlocked.
type changed []*allocation

// with adds an allocation, if it is a public port's.
func (c changed) with(a *allocation) changed {
	if a.public == nil || a.public.terms.Changed == nil {
		return c
	}
	return append(c, a)
}

func (c changed) tell() {
	for _, a := range c {
		a.public.terms.Changed(a.id)
	}
}
