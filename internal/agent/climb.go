package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/ladder"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/relay"
	"rendezvous/internal/session"
	"rendezvous/proto"
)

// climbing is what one introduction gave to climb with.
type climbing struct {
	mine       gathered
	theirs     offered
	allocation *proto.Allocation
	endpoints  []*endpoint // to punch from; none: the relay alone
	fresh      bool        // they were opened for this
	more       <-chan []netip.AddrPort
	fireAt     time.Time
	rtt        time.Duration // to the peer by way of the coordinator
}

// relayWithin bounds the binding of both legs and the first probe across.
const relayWithin = 8 * time.Second

// climb tries the relay and the punch side by side and returns when both have
// ended. Data flows over whichever is first.
func (as *association) climb(c climbing) {
	ctx, cancel := context.WithCancel(as.ctx)
	defer cancel()
	var steps []ladder.Step
	switch {
	case !as.a.relayAllowed():
		steps = append(steps, ladder.Step{Rung: refused{path.RelayUDP, "this agent"}})
	case !c.theirs.allows(path.RelayUDP):
		steps = append(steps, ladder.Step{Rung: refused{path.RelayUDP, "the peer"}})
	case c.allocation != nil:
		steps = append(steps, ladder.Step{Rung: &relayRung{as, as.a.ownRelay(c.allocation)}})
	}
	switch {
	case len(c.endpoints) == 0:
	case !as.a.allows(path.DirectUDP):
		steps = append(steps, ladder.Step{Rung: refused{path.DirectUDP, "this agent"}})
	case !c.theirs.allows(path.DirectUDP):
		steps = append(steps, ladder.Step{Rung: refused{path.DirectUDP, "the peer"}})
	default:
		steps = append(steps, ladder.Step{Rung: as.punchRung(c)})
	}
	ladder.Climb(ctx, steps, as.Try, as.peer.record)
}

func (a *Agent) relayAllowed() bool { return a.allows(path.RelayUDP) }

func (as *association) punchRung(c climbing) ladder.Rung {
	conns := make([]dgram.Conn, 0, len(c.endpoints))
	for _, e := range c.endpoints {
		conns = append(conns, e.conn)
	}
	r := &punch.Rung{
		Conns: conns, Candidates: c.theirs.addrs, More: c.more,
		SharedOutside: sharesOutside(c.mine.outside, c.theirs.outside),
		FireAt:        c.fireAt, RTT: c.rtt, Plan: punch.DefaultPlan(),
		Context: func() *path.Failure { return whyNot(c.mine.behaviour, as.theirBehaviour(c.theirs)) },
	}
	if c.fresh {
		return &freshRung{r, as}
	}
	r.Found = as.found()
	return r
}

// freshRung punches from new ports. A direct path that there is already does
// not end it: the peer may know that it is dead before we do, and to close the
// new sockets under its hands would cost it the next one as well.
type freshRung struct {
	*punch.Rung
	as *association
}

// Climb is the punch's. The peer may also have come in from an address that it
// did not know of, which no candidate's probe is told.
func (r *freshRung) Climb(ctx context.Context, try path.Try) error {
	err := r.Rung.Climb(ctx, try)
	if err == nil || !slices.ContainsFunc(r.as.Paths(), func(p session.Report) bool {
		return slices.Contains(r.Conns, p.Path.Conn) && (p.State == PathBest || p.State == PathSpare)
	}) {
		return err
	}
	return nil
}

// whyNot explains a punch that failed where the NATs' mappings explain it.
func whyNot(mine, theirs *proto.Behaviour) *path.Failure {
	const varies = proto.Behaviour_ADDRESS_AND_PORT_DEPENDENT
	here, there := mine.GetMapping() == varies, theirs.GetMapping() == varies
	advice := "put one side behind a NAT whose mapping does not depend on the destination (many routers call it full cone or endpoint-independent), " +
		"forward a UDP port there, or use IPv6"
	switch {
	case here && there:
		return &path.Failure{Reason: "both-mappings-vary", Advice: advice,
			Evidence: "both NATs give each destination another port (address-and-port-dependent mapping), so neither side can know where to send"}
	case here:
		return &path.Failure{Reason: "own-mapping-varies", Advice: advice,
			Evidence: "the NAT here gives each destination another port (address-and-port-dependent mapping), and the peer's NAT filters by port"}
	case there:
		return &path.Failure{Reason: "peer-mapping-varies", Advice: advice,
			Evidence: "the peer's NAT gives each destination another port (address-and-port-dependent mapping), and the NAT here filters by port"}
	}
	return nil
}

// refused is the rung of a kind that a config does not allow.
type refused struct {
	kind path.Kind
	by   string
}

// Kind is the kind that is not allowed.
func (r refused) Kind() path.Kind { return r.kind }

// Climb says so.
func (r refused) Climb(context.Context, path.Try) error {
	return &path.Failure{Reason: "not-allowed", Skipped: true,
		Evidence: "the config of " + r.by + " leaves it out of `paths`", Advice: "add " + r.kind.String() + " to --paths there"}
}

// relayRung binds our leg of an allocation and probes the peer across.
type relayRung struct {
	as    *association
	alloc *proto.Allocation
}

// Kind is relay-udp.
func (r *relayRung) Kind() path.Kind { return path.RelayUDP }

// Climb binds, probes, and leaves a task behind that keeps the leg.
func (r *relayRung) Climb(ctx context.Context, try path.Try) error {
	ctx, cancel := context.WithTimeout(ctx, relayWithin)
	defer cancel()
	family := netip.IPv4Unspecified()
	if len(r.alloc.GetRelay()) > 0 && len(r.alloc.GetRelay()[0].GetAddr()) == 16 {
		family = netip.IPv6Unspecified()
	}
	conn, err := r.as.a.cfg.Net.ListenUDP(netip.AddrPortFrom(family, 0))
	if err != nil {
		return fmt.Errorf("open a socket for the relay: %w", err)
	}
	leg, err := relay.NewLeg(conn, r.alloc)
	if err != nil {
		_ = conn.Close()
		return err
	}
	e := newEndpoint(conn, path.RelayUDP, r.as.a.board)
	e.owner, e.leg = r.as.Session, leg
	r.as.keep(e)
	// From now on, so that a NAT that forgets us meanwhile costs no more than
	// the next doubt: that binds all legs again.
	r.as.addLeg(leg)
	if err := leg.Bind(ctx); err != nil {
		r.as.removeLeg(leg)
		r.as.discard([]*endpoint{e})
		return &path.Failure{Reason: "relay-unbound",
			Evidence: fmt.Sprintf("asked the relay %v for %v; %v", leg.Addr(), relayWithin, err),
			Advice:   "check that UDP passes to the coordinator's port on both sides"}
	}
	if _, err := try(ctx, path.Path{Conn: conn, Addr: leg.Addr()}, path.RelayUDP); err != nil {
		r.as.removeLeg(leg)
		r.as.discard([]*endpoint{e})
		return &path.Failure{Reason: "no-answer", Evidence: err.Error(),
			Advice: "both legs were bound but nothing crossed: is the peer still running?"}
	}
	r.as.a.tasks.start(func(context.Context) { r.as.keepLeg(leg, e) })
	return nil
}

func (as *association) addLeg(l *relay.Leg) {
	as.mu.Lock()
	as.legs = append(as.legs, l)
	as.mu.Unlock()
}

// removeLeg forgets l and says how many are left.
func (as *association) removeLeg(l *relay.Leg) int {
	as.mu.Lock()
	defer as.mu.Unlock()
	as.legs = slices.DeleteFunc(as.legs, func(k *relay.Leg) bool { return k == l })
	return len(as.legs)
}

// keepLeg refreshes a leg until it ends; a relay that no longer knows it (the
// coordinator was restarted) makes us ask for another allocation.
func (as *association) keepLeg(l *relay.Leg, e *endpoint) {
	err := l.Keep(as.ctx)
	left := as.removeLeg(l)
	if err == nil || as.ctx.Err() != nil {
		return
	}
	as.Drop(path.Path{Conn: e.conn, Addr: l.Addr()})
	as.discard([]*endpoint{e})
	if left == 0 {
		as.needSpare()
	}
}

func (as *association) setTheirs(o offered) {
	as.mu.Lock()
	as.theirs = o
	as.mu.Unlock()
}

// theirBehaviour is the peer's as its answer told, or as its standing
// candidates did.
func (as *association) theirBehaviour(o offered) *proto.Behaviour {
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.theirs.behaviour != nil {
		return as.theirs.behaviour
	}
	return o.behaviour
}
