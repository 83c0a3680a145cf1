package punch

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// Budget bounds what one attempt sends beyond the candidates' probes.
type Budget struct {
	PerSecond int // datagrams
	PerTarget int // to one address, all its ports together
}

// DefaultBudget lets a spray of 1500 ports take three seconds: less than what
// monitoring takes for a flood, and within a carrier's limits of new flows.
var DefaultBudget = Budget{PerSecond: 500, PerTarget: 2000}

// Gunnery is what a plan needs that goes beyond the candidates. The zero
// Gunnery shoots at nothing.
type Gunnery struct {
	// Shoot sends one probe of the session, whose answer makes a path.
	Shoot func(path.Path) error
	// Open opens more sockets of IPv4; fewer than asked for where files or
	// ports lack.
	Open func(n int) []dgram.Conn
	// Theirs is the peer's behaviour, its newest port included.
	Theirs *proto.Behaviour
	Budget Budget
	// Sent counts the datagrams; may be nil.
	Sent *atomic.Uint64
}

// errSpent ends a climb's shots: the rest of the plan would overdraw.
var errSpent = errors.New("the budget of datagrams for one attempt is spent")

// shooting is one climb's shots.
type shooting struct {
	rung *Rung
	ctx  context.Context
	left map[netip.Addr]int
	next time.Time // when the budget has one more
}

// Rounds of a plan, counted from the instant to fire. Sockets that are not
// asked for by a server hold their mapping for 30 s at least (RFC 4787 section
// 4.3 saw no less), and a shot that is lost is made up for by the next round.
var (
	predictRounds = []time.Duration{0, 200 * time.Millisecond, 600 * time.Millisecond, 1500 * time.Millisecond}
	holdRounds    = []time.Duration{1500 * time.Millisecond, 4 * time.Second, 8 * time.Second}
)

// shoot does this side's part of the plan beyond the candidates, until ctx ends
// or all is sent. at is where the peer's probes come from, as servers saw them.
func (r *Rung) shoot(ctx context.Context, at []netip.AddrPort) {
	if r.Shoot == nil {
		return
	}
	s := &shooting{rung: r, ctx: ctx, left: make(map[netip.Addr]int), next: r.FireAt}
	role := r.Plan.Role
	switch {
	case role.Sockets > 0:
		s.hold(role.Sockets, at)
	case role.Window > 0:
		s.predicted(at)
	case role.Shots > 0:
		s.scattered(at)
	}
}

// hold opens a mapping towards the peer from each of many sockets: at once with
// a low hop limit, so that the peer's NAT sees nothing yet, then in rounds.
func (s *shooting) hold(n int, at []netip.AddrPort) {
	if len(at) == 0 {
		return
	}
	conns := s.rung.Open(n)
	s.next = time.Now()
	for _, c := range conns {
		if s.may(at[0].Addr()) == nil {
			s.rung.primeFrom(c, at[0])
		}
	}
	rounds := holdRounds
	if s.rung.Plan.Name == Predict {
		rounds = predictRounds
	}
	for _, after := range rounds {
		if !path.Wait(s.ctx, time.Until(s.rung.FireAt.Add(after))) {
			return
		}
		for _, c := range conns {
			if s.send(path.Path{Conn: c, Addr: at[0]}) != nil {
				return
			}
		}
	}
}

// predicted shoots at the ports that the peer's NAT gives next.
func (s *shooting) predicted(at []netip.AddrPort) {
	role := s.rung.Plan.Role
	conns := s.four()
	if len(conns) == 0 {
		return
	}
	ports := predict(s.rung.Theirs, max(role.Window, len(conns)), role.Stride)
	for _, after := range predictRounds {
		if !path.Wait(s.ctx, time.Until(s.rung.FireAt.Add(after))) {
			return
		}
		for _, ip := range addresses(at) {
			for i, port := range ports {
				// A socket that keeps its port towards one destination has one shot.
				conn := conns[0]
				if role.Single {
					conn = conns[i]
				}
				if s.send(path.Path{Conn: conn, Addr: netip.AddrPortFrom(ip, port)}) != nil {
					return
				}
			}
		}
	}
}

// scattered shoots at ports by chance.
func (s *shooting) scattered(at []netip.AddrPort) {
	conns := s.four()
	if len(conns) == 0 || len(at) == 0 || !path.Wait(s.ctx, time.Until(s.rung.FireAt)) {
		return
	}
	for _, port := range scatter(s.rung.Theirs, s.rung.Plan.Role.Shots, rand.IntN) {
		if s.send(path.Path{Conn: conns[0], Addr: netip.AddrPortFrom(at[0].Addr(), port)}) != nil {
			return
		}
	}
}

// send sends one probe when the budget lets it; the error says that it never
// will, or that the climb is over.
func (s *shooting) send(p path.Path) error {
	if err := s.may(p.Addr.Addr()); err != nil {
		return err
	}
	_ = s.rung.Shoot(p) // what the kernel refuses once may pass the next time
	return nil
}

// may waits for the budget's next datagram.
func (s *shooting) may(to netip.Addr) error {
	b := s.rung.Budget
	left, known := s.left[to]
	if !known {
		left = b.PerTarget
	}
	if left <= 0 {
		return errSpent
	}
	s.left[to] = left - 1
	if !path.Wait(s.ctx, time.Until(s.next)) {
		return s.ctx.Err()
	}
	s.next = s.next.Add(time.Second / time.Duration(max(b.PerSecond, 1)))
	if s.rung.Sent != nil {
		s.rung.Sent.Add(1)
	}
	return nil
}

// four is our sockets of IPv4.
func (s *shooting) four() []dgram.Conn {
	return slices.DeleteFunc(slices.Clone(s.rung.Conns), func(c dgram.Conn) bool { return !c.LocalAddr().Addr().Unmap().Is4() })
}

// translated is where among the peer's candidates its NAT may be: public
// addresses of IPv4, in their order.
func translated(candidates []netip.AddrPort) (at []netip.AddrPort) {
	for _, c := range candidates {
		if c.Addr().Unmap().Is4() && !path.Private(c.Addr()) {
			at = append(at, c)
		}
	}
	return at
}

// addresses are those of at, each once.
func addresses(at []netip.AddrPort) (ips []netip.Addr) {
	for _, a := range at {
		if !slices.Contains(ips, a.Addr()) {
			ips = append(ips, a.Addr())
		}
	}
	return ips
}
