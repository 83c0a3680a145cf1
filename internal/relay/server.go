// Package relay forwards datagrams between the two legs of an allocation, by
// source address alone: it adds no byte, opens nothing and rewrites nothing.
// Server is the table on the coordinator; Leg is an agent's side.
//
// A leg becomes known only by a bind: a datagram with an HMAC under the leg's
// key, which the coordinator gave to that agent, and a counter that rises. So
// nobody can make the relay send to an address that did not ask for it, and a
// bind that was overheard moves nothing. Strangers get no answer.
package relay

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

// ErrLimited is the error of Allocate when a limit is reached: the two agents
// must do without a relay, or wait until an older allocation has ended.
var ErrLimited = errors.New("relay: too many allocations")

// How long things live beyond what Limits set.
const (
	// lapse ends a leg's address when its bind was not refreshed: four times
	// the interval of Keep. Data alone does not keep an address, because its
	// NAT may have given it to a stranger, whose datagrams we would go on
	// taking for the leg's (the reasoning of RFC 7675's consent).
	lapse = 4 * refreshEach
	// remembered is how long the keys of an ended allocation are kept, to
	// tell a late leg, with a genuine MAC, that it is gone.
	remembered = 10 * time.Minute
)

// Allocation is a relay's promise to two agents, one leg for each.
type Allocation struct {
	ID   proto.Token
	Keys [2][32]byte // for the binds of each leg; secret
}

// Server is the relay's table. Its methods may be called from many goroutines.
type Server struct {
	limits  Limits
	sources sources
	count   counters

	mu          sync.Mutex // guards what follows, and the fields of allocation and leg that say so
	allocations map[proto.Token]*allocation
	members     map[string]int // living allocations that name the member
	living      population
	heldBytes   int
}

// population is how many allocations live.
type population struct{ agents, public int }

func (p population) all() int { return p.agents + p.public }

// allocation is an Allocation in the table; Server.mu guards it.
type allocation struct {
	id      proto.Token
	members [2]string
	legs    [2]leg
	touched time.Time     // when it was made or a leg last bound
	ended   time.Time     // zero while it lives
	public  *public       // nil where both legs are agents'
	over    chan struct{} // made for the first splice, closed when it ends
}

// rates bound each direction, in bytes and datagrams a second.
func (a *allocation) rates(l *Limits) (bytes, datagrams float64) {
	bytes, datagrams = l.Bytes, l.Datagrams
	if a.public != nil && a.public.terms.Bytes > 0 {
		bytes = a.public.terms.Bytes
	}
	if a.public != nil && a.public.terms.Datagrams > 0 {
		datagrams = a.public.terms.Datagrams
	}
	return bytes, datagrams
}

// patience is how long leg 0 or 1 is kept without a bind, and the allocation
// after its last.
func (a *allocation) patience(l *Limits) (leg, idle time.Duration) {
	if a.public == nil {
		return lapse, l.Idle
	}
	leg = a.public.terms.Keepalive + publicGrace
	return leg, leg
}

func (a *allocation) gone() bool { return !a.ended.IsZero() }

func (a *allocation) both() bool { return a.legs[0].at.Load() != nil && a.legs[1].at.Load() != nil }

// NewServer makes an empty relay.
func NewServer(l Limits) *Server {
	return &Server{
		limits:      l.withDefaults(),
		allocations: make(map[proto.Token]*allocation),
		members:     make(map[string]int),
	}
}

// Allocate promises a relay to members a (leg 0) and b (leg 1). Its error is
// ErrLimited, with the limit that was reached.
func (s *Server) Allocate(now time.Time, a, b string) (Allocation, error) {
	var out Allocation
	rand.Read(out.ID[:])
	rand.Read(out.Keys[0][:])
	rand.Read(out.Keys[1][:])
	al := &allocation{id: out.ID, members: [2]string{a, b}, touched: now}
	for i := range al.legs {
		al.legs[i] = leg{allocation: al, index: uint8(i), key: out.Keys[i]}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if s.living.agents >= s.limits.Allocations {
		s.count.refused.Add(1)
		return Allocation{}, fmt.Errorf("%w: %d live here, the limit", ErrLimited, s.living.agents)
	}
	for _, m := range al.members {
		if s.members[m] >= s.limits.PerMember {
			s.count.refused.Add(1)
			return Allocation{}, fmt.Errorf("%w: %q has %d, the limit of a member", ErrLimited, m, s.members[m])
		}
	}
	s.allocations[al.id] = al
	s.living.agents++
	for _, m := range al.members {
		s.members[m]++
	}
	return out, nil
}

// Remove ends every allocation that names the member at once: it was revoked.
func (s *Server) Remove(now time.Time, member string) {
	var tell changed
	defer func() { tell.tell() }()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.allocations {
		if !a.gone() && (a.members[0] == member || a.members[1] == member) {
			s.end(a, now)
			tell = tell.with(a)
		}
	}
}

// Expire ends what has been idle too long. Call it every few seconds.
func (s *Server) Expire(now time.Time) {
	var tell changed
	defer func() { tell.tell() }()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, a := range s.allocations {
		if a.gone() {
			if now.Sub(a.ended) >= remembered {
				delete(s.allocations, id)
			}
			continue
		}
		leg, idle := a.patience(&s.limits)
		lost := s.lapse(&a.legs[0], now, leg)
		if a.public == nil { // a client never binds
			s.lapse(&a.legs[1], now, leg)
		}
		if a.legs[0].counter == 0 && a.legs[1].counter == 0 {
			idle = s.limits.Unbound
		}
		if now.Sub(a.touched) >= idle {
			s.end(a, now)
			lost = true
		}
		if lost {
			tell = tell.with(a)
		}
	}
}

// Gone says that nothing comes from addr on conn any more, nor goes there: a
// stream has ended. A leg that was bound there is not bound now, and binds
// again from where it is next. It says whether there was one.
func (s *Server) Gone(conn dgram.Conn, addr netip.AddrPort) bool {
	from := source{conn, addr}
	var tell changed
	defer func() { tell.tell() }()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.sources.find(from)
	if l == nil {
		return false
	}
	s.sources.remove(from)
	if at := l.at.Load(); at != nil && *at == from {
		l.at.Store(nil)
		tell = tell.with(l.allocation)
	}
	return true
}

// lapse forgets the leg's address when it was not refreshed in time, and what
// waits for a peer that did not come. It says whether the leg was lost now.
// Server.mu is held.
func (s *Server) lapse(l *leg, now time.Time, after time.Duration) bool {
	at := l.at.Load()
	lost := at != nil && now.Sub(l.bound) >= after
	if lost {
		s.sources.remove(*at)
		l.at.Store(nil)
	}
	if len(l.held) > 0 && now.Sub(l.heldSince) >= holdFor {
		s.takeHeld(l, now)
	}
	return lost
}

// end stops the allocation but remembers its keys for Gone, unless so many
// ended ones are remembered already that it would cost memory. Server.mu is
// held.
func (s *Server) end(a *allocation, now time.Time) {
	for i := range a.legs {
		l := &a.legs[i]
		if at := l.at.Swap(nil); at != nil && (i == 0 || a.public == nil) {
			s.sources.remove(*at)
		}
		s.count.drop(heldTooLong, l.dropHeld(&s.heldBytes))
	}
	a.ended = now
	if a.over != nil {
		close(a.over)
	}
	if a.public != nil {
		s.living.public--
	} else {
		s.living.agents--
		for _, m := range a.members {
			if s.members[m]--; s.members[m] == 0 {
				delete(s.members, m)
			}
		}
	}
	if len(s.allocations)-s.living.all() > s.limits.Allocations {
		delete(s.allocations, a.id)
	}
}

// Receive takes what the reader of conn read from one address. It is true when
// that was the relay's business: a leg's datagrams, a bind, or another kind
// that only legs have reason to send; false leaves QUIC, STUN and what is of
// no kind to others. It allocates nothing for datagrams that it forwards.
func (s *Server) Receive(conn dgram.Conn, b dgram.Burst) bool {
	from := source{conn, b.Addr}
	l := s.sources.find(from)
	if l == nil {
		return s.stranger(from, b)
	}
	now := time.Now()
	if mayHoldBind(b) {
		s.sift(l, from, b, now)
	} else {
		s.forward(l, b, now)
	}
	return true
}

// forward sends the burst whole to where the other leg is.
func (s *Server) forward(l *leg, b dgram.Burst, now time.Time) {
	if p := l.allocation.public; p != nil {
		p.used[l.index].Store(now.UnixNano())
	}
	to := l.other().at.Load()
	if to == nil {
		s.hold(l, b, now)
		return
	}
	n := b.Len()
	bytes, datagrams := l.allocation.rates(&s.limits)
	pass := l.bucket.take(now, bytes, datagrams, n, b.Size)
	if pass < n {
		s.count.drop(overRate, n-pass)
		if pass == 0 {
			return
		}
		b.Buf = b.Buf[:pass*b.Size]
	}
	s.write(*to, b, pass)
}

func (s *Server) write(to source, b dgram.Burst, n int) {
	b.Addr = to.addr
	if err := to.conn.Write(b); err != nil {
		s.count.drop(writeError, n)
		return
	}
	s.count.datagrams.Add(uint64(n))
	s.count.bytes.Add(uint64(len(b.Buf)))
}

// stranger takes a burst from an address that is no leg's. Nothing is answered
// but a valid bind.
func (s *Server) stranger(from source, b dgram.Burst) bool {
	ours := false
	rest := b
	for d := range b.All() {
		rest.Buf = rest.Buf[len(d):]
		switch proto.KindOf(d) {
		case proto.KindBind:
			ours = true
			if s.bindStranger(from, d) && len(rest.Buf) > 0 {
				return s.Receive(from.conn, rest) // what came behind the bind is the leg's
			}
		case proto.KindData, proto.KindProbe, proto.KindProbeAnswer, proto.KindBound, proto.KindPrime:
			ours = true
			s.count.drop(unknownSource, 1)
		}
	}
	return ours
}
