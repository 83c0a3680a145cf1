package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/faketcp"
	"rendezvous/internal/ladder"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/session"
	"rendezvous/internal/simopen"
	"rendezvous/proto"
)

// freshPorts are new ports on both sides, and what is climbed from them.
type freshPorts struct {
	*openings
	wanted []path.Kind // asked for; what we are not able to has its reason in the record
	agreed []path.Kind // both sides have ports for
}

// Head starts for UDP where both sides may be reached over it: it is cheaper
// than what looks like TCP, and that than a stream, which delays what comes
// behind a lost segment. Both sides know of both, so both wait alike.
const (
	fakeTCPWaits = 250 * time.Millisecond
	tcpWaits     = 500 * time.Millisecond
)

// freshSteps are the rungs of the direct kinds from new ports.
func (as *association) freshSteps(c climbing) (steps []ladder.Step) {
	udp := slices.Contains(c.fresh.agreed, path.DirectUDP) && c.mine.overUDP() && c.theirs.overUDP
	won := make(map[path.Kind]*signal)
	for _, k := range directKinds {
		why := as.a.unable(k)
		switch {
		case !slices.Contains(c.fresh.wanted, k):
			continue
		case why != nil:
			steps = append(steps, ladder.Step{Rung: hopeless{k, why}})
			continue
		case !c.theirs.allows(k):
			steps = append(steps, ladder.Step{Rung: refused{k, "the peer"}})
			continue
		case !slices.Contains(c.fresh.agreed, k) || !c.fresh.has(k):
			steps = append(steps, ladder.Step{Rung: hopeless{k, skip("unsupported", "not both sides have a port for it", "`agent explain` says for each side why")}})
			continue
		}
		r := &directRung{Rung: as.directRung(k, c, udp), as: as, ports: c.fresh, began: time.Now(), won: newSignal(), why: c.behindPorts(k)}
		if hold := as.reversal(c, proto.Transport_TRANSPORT_FAKE_TCP); k == path.DirectFakeTCP && hold > 0 {
			r.reversed = after(c.fireAt, udp, fakeTCPWaits).Add(hold)
		}
		for _, better := range directKinds {
			if s := won[better]; s != nil {
				r.better = append(r.better, s)
			}
		}
		won[k] = r.won
		steps = append(steps, ladder.Step{Rung: r})
	}
	return steps
}

// directRung is the rung of one kind; udp says that UDP goes first.
func (as *association) directRung(k path.Kind, c climbing, udp bool) ladder.Rung {
	shared := sharesOutside(c.mine.outside, c.theirs.outside)
	single := punch.NatureOf(punch.Suppose(c.mine.tcpBehaviour, c.attempt)) == punch.Kept
	var found <-chan struct{}
	if best := as.Best(); best == path.None || best.Relayed() {
		found = as.found()
	}
	switch k {
	case path.DirectFakeTCP:
		conns := make([]dgram.Opener, 0, len(c.fresh.fake))
		for _, e := range c.fresh.fake {
			if o, ok := e.conn.(dgram.Opener); ok {
				conns = append(conns, o)
			}
		}
		aim := faketcp.Aim{At: as.foreseen(c, c.theirs.fake, shared), Rounds: punch.AimRounds(), Pace: as.a.ration.Pace}
		return &faketcp.Rung{Conns: conns, Candidates: c.theirs.fake, SharedOutside: shared, Single: single, FireAt: after(c.fireAt, udp, fakeTCPWaits),
			RTT: c.rtt, Aim: aim, Found: found}
	case path.DirectTCP:
		var locals []netip.AddrPort
		var listeners []net.Listener
		for _, p := range c.fresh.tcp {
			locals, listeners = append(locals, p.local), append(listeners, p.listener)
		}
		leaves := slices.ContainsFunc(c.fresh.tcp, (*tcpPort).answered)
		return &simopen.Rung{
			Net: as.a.cfg.Host.TCP, Local: locals, Listeners: listeners, Candidates: c.theirs.tcp, SharedOutside: shared, Single: single, Leaves: leaves, Aim: as.foreseen(c, c.theirs.tcp, shared),
			FireAt: after(c.fireAt, udp, tcpWaits).Add(as.reversal(c, proto.Transport_TRANSPORT_TCP)), RTT: c.rtt, Attach: as.attach, Release: as.release,
		}
	}
	return as.punchRung(c, c.fresh.udp)
}

// foreseen is where a NAT that counts its TCP ports is about to show the peer;
// nothing where it doesn't.
func (as *association) foreseen(c climbing, theirs []netip.AddrPort, shared bool) (at []netip.AddrPort) {
	plan := punch.PlanFor(c.mine.tcpBehaviour, c.theirs.tcpBehaviour, as.initiator, c.attempt)
	allowed, _ := path.Permitted(theirs, shared, path.DefaultBudget)
	if behind := path.Translated(allowed); plan.Name == punch.Predict && !plan.Role.Single && len(behind) > 0 {
		for _, port := range punch.Foreseen(c.theirs.tcpBehaviour, plan.Role) {
			if len(c.mine.passing) == 0 || slices.Contains(c.mine.passing, port) {
				at = append(at, netip.AddrPortFrom(behind[0].Addr(), port))
			}
		}
	}
	return at
}

// after is the instant to fire, later by a head start for UDP where that is
// given.
func after(fire time.Time, udp bool, head time.Duration) time.Time {
	if udp {
		return fire.Add(head)
	}
	return fire
}

// attach reads a stream to what may be the peer.
func (as *association) attach(conn dgram.Conn, _ netip.AddrPort) {
	as.keep(newEndpoint(conn, path.DirectTCP, as.a.board))
}

// release closes a stream that led nowhere.
func (as *association) release(conn dgram.Conn) {
	for _, r := range as.Paths() {
		if r.Path.Conn == conn {
			as.Drop(r.Path)
		}
	}
	_ = conn.Close() // its reader forgets the endpoint
}

// signal is given once.
type signal struct {
	ctx  context.Context
	give context.CancelFunc
}

func newSignal() *signal {
	s := &signal{}
	s.ctx, s.give = context.WithCancel(context.Background())
	return s
}

// directRung climbs from new ports. A direct path that there is already does
// not end it: the peer may know that it is dead before we do, and to close the
// new sockets under its hands would cost it the next one as well. A better
// kind from new ports does end it.
type directRung struct {
	ladder.Rung
	as     *association
	ports  *freshPorts
	began  time.Time
	better []*signal
	won    *signal
	// reversed is until when the peer alone dials, and this rung is not climbed.
	reversed time.Time
	why      *path.Failure // what a failure is due to, where that is known beforehand
}

// Climb is the rung's own. The peer may also have come in from an address that
// it did not know of, which no candidate's probe is told.
func (r *directRung) Climb(ctx context.Context, try path.Try) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for _, s := range r.better {
		defer context.AfterFunc(s.ctx, cancel)()
	}
	if !r.reversed.IsZero() && path.Wait(ctx, time.Until(r.reversed)) && r.came() {
		r.won.give()
		return nil
	}
	err := r.Rung.Climb(ctx, try)
	if err == nil || r.came() {
		r.won.give()
		return nil
	}
	for _, s := range r.better {
		if s.ctx.Err() != nil {
			return skip("not-needed", "a better kind of path was found first", "")
		}
	}
	var f *path.Failure
	if errors.As(err, &f) && f.Reason == path.RefusalsFlood {
		r.as.a.refusals.floods.Add(1)
	}
	return because(err, r.why)
}

// behindPorts is why a firewall on either side that lets TCP pass to few ports
// keeps a kind from working; nil where none does, as far as is known.
func (c climbing) behindPorts(k path.Kind) *path.Failure {
	over, theirs := proto.Transport_TRANSPORT_FAKE_TCP, c.theirs.fake
	switch k {
	case path.DirectTCP:
		over, theirs = proto.Transport_TRANSPORT_TCP, c.theirs.tcp
	case path.DirectUDP:
		return nil
	}
	if f := outOfReach(c.mine.passing, theirs); f != nil {
		return f
	}
	if f := c.fresh.barred[k]; f != nil {
		return f
	}
	var ours []netip.AddrPort
	for _, m := range c.mine.candidates {
		if m.transport == over && m.public() {
			ours = append(ours, m.addr)
		}
	}
	if f := outOfReachThere(c.theirs.passing, ours); f != nil {
		return f
	}
	return scatteredTCP(c.mine.tcpBehaviour, c.theirs.tcpBehaviour)
}

// scatteredTCP says that a NAT gives each TCP connection any port, so that no
// SYN of the other side's can be aimed.
func scatteredTCP(mine, theirs *proto.Behaviour) *path.Failure {
	here, there := punch.NatureOf(mine) >= punch.Scattered, punch.NatureOf(theirs) >= punch.Scattered
	if !here && !there {
		return nil
	}
	f := &path.Failure{Reason: "peer-mapping-varies", Evidence: "the peer's NAT",
		Advice: "use IPv6, let UDP pass on both sides, or lead a TCP port to one of the two"}
	if here {
		f.Reason, f.Evidence = "own-mapping-varies", "the NAT here"
	}
	f.Evidence += fmt.Sprintf(" gives each TCP connection any port, and arithmetic forbids to find it: one connection and 4 SYNs have a chance of %.3f %%, "+
		"and the hundreds of half-open connections on one side and the thousand and more SYNs on the other that it would take are a port scan to networks on the way", 100*4/64512.)
	return f
}

// because gives a failure that says no more than that nothing came of it the
// reason that is known.
func because(err error, why *path.Failure) error {
	var f *path.Failure
	if why == nil || !errors.As(err, &f) || !slices.Contains([]string{"no-answer", "refused", path.RefusalsFlood, "syn-blocked", "no-candidates"}, f.Reason) {
		return err
	}
	return &path.Failure{Reason: why.Reason, Evidence: why.Evidence + "; " + f.Evidence, Advice: why.Advice}
}

// came says whether a path on one of the new ports is proven.
func (r *directRung) came() bool {
	return slices.ContainsFunc(r.as.Paths(), func(p session.Report) bool {
		if p.State != PathBest && p.State != PathSpare {
			return false
		}
		switch r.Kind() {
		case path.DirectUDP:
			return slices.Contains(connsOf(r.ports.udp), p.Path.Conn)
		case path.DirectFakeTCP:
			return slices.Contains(connsOf(r.ports.fake), p.Path.Conn)
		}
		return p.Kind == r.Kind() && p.Since.After(r.began)
	})
}
