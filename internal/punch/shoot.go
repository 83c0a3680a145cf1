package punch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

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
	// Ration is the host's; it must be given where Shoot is.
	Ration *Ration
}

// shooting is one climb's shots.
type shooting struct {
	rung    *Rung
	ctx     context.Context
	sent    map[netip.Addr]int
	all     int // sent to whichever address
	planned int // those that the plan has
	wary    wariness
	ears    []dgram.RefusalCounter
	refused int
	cut     *path.Failure // why not all of the plan was sent
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
// It says why less was sent than the plan has, nil where nothing was left out.
func (r *Rung) shoot(ctx context.Context, at []netip.AddrPort) *path.Failure {
	role := r.Plan.Role
	if r.Shoot == nil || role.Sockets == 0 && role.Window == 0 && role.Shots == 0 {
		return nil
	}
	s := &shooting{rung: r, ctx: ctx, sent: make(map[netip.Addr]int)}
	if r.Plan.Name == Spray {
		release, ok := r.Ration.spray(ctx)
		if !ok {
			return &path.Failure{Reason: "spray-busy", Evidence: "another spray, for another peer, was under way here all the while, and there is one at a time",
				Advice: "wait: it is tried again"}
		}
		defer release()
	}
	defer s.deafen()
	switch {
	case role.Sockets > 0:
		s.hold(role.Sockets, at)
	case role.Window > 0:
		s.predicted(at)
	case role.Shots > 0:
		s.scattered(at)
	}
	if s.cut != nil {
		r.Ration.Cut.Add(1)
	}
	return s.cut
}

// hold opens a mapping towards the peer from each of many sockets: at once with
// a low hop limit, so that the peer's NAT sees nothing yet, then in rounds.
func (s *shooting) hold(n int, at []netip.AddrPort) {
	if len(at) == 0 {
		return
	}
	rounds := holdRounds
	if s.rung.Plan.Name == Predict {
		rounds = predictRounds
	}
	if !s.rung.Plan.Role.Every {
		at = at[:1]
	}
	conns := s.rung.Open(n)
	var ways []path.Path
	for _, c := range conns {
		for _, a := range at {
			ways = append(ways, path.Path{Conn: c, Addr: a})
		}
	}
	s.planned = len(ways) * (1 + len(rounds))
	s.listen(conns)
	for _, w := range ways {
		if s.may(w.Addr.Addr()) == nil {
			s.rung.primeFrom(w.Conn, w.Addr)
		}
	}
	for _, after := range rounds {
		if !path.Wait(s.ctx, time.Until(s.rung.FireAt.Add(after))) {
			return
		}
		for _, w := range ways {
			if s.send(w) != nil {
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
	ports := predict(s.rung.Theirs, role.Window, role.Ahead, role.Stride)
	s.planned = len(ports) * len(addresses(at)) * len(predictRounds)
	s.listen(conns)
	for _, after := range predictRounds {
		if !path.Wait(s.ctx, time.Until(s.rung.FireAt.Add(after))) {
			return
		}
		for _, ip := range addresses(at) {
			for i, port := range ports {
				// A socket that keeps its port towards one destination has one shot.
				conn := conns[0]
				if role.Single {
					conn = conns[i%len(conns)]
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
	ports := scatter(s.rung.Theirs, s.rung.Plan.Role.Shots, rand.IntN)
	s.planned = len(ports)
	s.listen(conns[:1])
	for _, port := range ports {
		if s.send(path.Path{Conn: conns[0], Addr: netip.AddrPortFrom(at[0].Addr(), port)}) != nil {
			return
		}
	}
}

// errCut ends a climb's shots.
var errCut = errors.New("the rest of the plan is left out")

// send sends one probe when the budget lets it; the error says that it never
// will, or that the climb is over.
func (s *shooting) send(p path.Path) error {
	if err := s.may(p.Addr.Addr()); err != nil {
		return err
	}
	// What the kernel refuses once may pass the next time; where it tells of
	// ICMP apart, the error may be of an earlier shot, and is counted there.
	if err := s.rung.Shoot(p); err != nil && len(s.ears) == 0 {
		s.refused++
	}
	return s.look()
}

// may waits for the budget's next datagram.
func (s *shooting) may(to netip.Addr) error {
	b := s.rung.Ration.Budget
	switch {
	case s.cut != nil:
		return errCut
	case s.sent[to] >= b.PerTarget:
		return s.spent("per_target", b.PerTarget, "to one address in an attempt", DefaultBudget.PerTarget)
	case s.all >= b.PerAttempt:
		return s.spent("per_attempt", b.PerAttempt, "in an attempt", DefaultBudget.PerAttempt)
	}
	if !path.Wait(s.ctx, s.wary.gap(b)) || !s.rung.Ration.pace(s.ctx) {
		if errors.Is(s.ctx.Err(), context.DeadlineExceeded) && b.PerSecond < DefaultBudget.PerSecond {
			return s.spent("per_second", b.PerSecond, "a second", DefaultBudget.PerSecond)
		}
		return s.ctx.Err()
	}
	s.sent[to]++
	s.all++
	return nil
}

// spent says which budget ended the shots.
func (s *shooting) spent(name string, figure int, what string, most int) error {
	s.cut = &path.Failure{
		Reason: "budget",
		Evidence: fmt.Sprintf("the budget of %d datagrams %s (punch.%s) let %d of %d leave", figure, what, name,
			s.all, max(s.planned, s.all)),
		Advice: fmt.Sprintf("raise punch.%s in agent.yaml, up to %d, or leave it out there", name, most),
	}
	return errCut
}

// listen has the system tell from now on which shots were refused.
func (s *shooting) listen(conns []dgram.Conn) {
	for _, c := range conns {
		if e, ok := c.(dgram.RefusalCounter); ok && e.CountRefusals(true) == nil {
			s.ears = append(s.ears, e)
		}
	}
}

func (s *shooting) deafen() {
	for _, e := range s.ears {
		_ = e.CountRefusals(false) // the socket is closed: nothing is to be turned off
	}
}

// look has the network's answers slow the shots down, or end them.
func (s *shooting) look() error {
	if !s.wary.shot() {
		return nil
	}
	refused := s.refused
	s.refused = 0
	for _, e := range s.ears {
		refused += e.Refusals()
	}
	s.rung.Ration.Refused.Add(uint64(refused))
	if s.wary.saw(refused) {
		return nil
	}
	s.cut = &path.Failure{
		Reason:   "refused",
		Evidence: fmt.Sprintf("a network on the way answers by ICMP that it lets nothing pass: %d of the last %d datagrams; stopped after %d", refused, lookEvery, s.all),
		Advice:   "let UDP to all ports leave in the firewalls on both sides; otherwise what looks like TCP, TCP or the relay has to do",
	}
	return errCut
}

// four is our sockets of IPv4.
func (s *shooting) four() []dgram.Conn {
	return slices.DeleteFunc(slices.Clone(s.rung.Conns), func(c dgram.Conn) bool { return !c.LocalAddr().Addr().Unmap().Is4() })
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
