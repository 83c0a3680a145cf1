package agent

import (
	"context"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/ladder"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// climbing is what one introduction gave to climb with.
type climbing struct {
	attempt    uint32
	mine       gathered
	theirs     offered
	allocation *proto.Allocation
	another    bool        // the allocation is for another kind of leg than those we have
	mains      []*endpoint // to punch from, without new ports
	fresh      *freshPorts // nil: there are none
	near       bool        // the peer's NAT may be the next router behind ours
	more       <-chan []netip.AddrPort
	punched    *signal // given when the punch is over; may be nil
	fireAt     time.Time
	rtt        time.Duration // to the peer by way of the coordinator; climb takes that of a path where it is longer
}

// climb tries the relay and the punch side by side and returns when both have
// ended. Data flows over whichever is first.
func (as *association) climb(c climbing) {
	ctx, cancel := context.WithCancel(as.ctx)
	defer cancel()
	c.rtt = max(c.rtt, as.roundTrip())
	steps := as.relaySteps(c)
	switch {
	case c.fresh != nil:
		steps = append(steps, as.freshSteps(c)...)
	case len(c.mains) == 0:
	case !as.a.allows(path.DirectUDP):
		steps = append(steps, ladder.Step{Rung: refused{path.DirectUDP, "this agent"}})
	case !c.theirs.allows(path.DirectUDP):
		steps = append(steps, ladder.Step{Rung: refused{path.DirectUDP, "the peer"}})
	default:
		r := as.punchRung(c, c.mains)
		if c.punched == nil {
			c.punched = newSignal()
		}
		steps = append(steps, ladder.Step{Rung: signalling{r, c.punched}})
	}
	ladder.Climb(ctx, steps, as.Try, as.peer.record)
	if c.punched != nil {
		c.punched.give()
	}
}

// roundTrip is that of the best path with the peer, 0 without one. The estimate
// by way of the coordinator lags behind a link that has become longer, most of
// all where nothing is said on it. An agent that goes by that gives a punch up
// while the peer's ends well: then the peer sends into a closed socket.
func (as *association) roundTrip() time.Duration {
	if parent := as.peer.association(); as.raw != nil && parent != nil {
		as = parent // a raw flow has but its own path, or none yet
	}
	for _, r := range as.Paths() {
		if r.State == PathBest {
			return min(r.RTT, maxRTT)
		}
	}
	return 0
}

// signalling tells when a rung's climb is over.
type signalling struct {
	ladder.Rung
	over *signal
}

// Climb is the rung's own.
func (r signalling) Climb(ctx context.Context, try path.Try) error {
	defer r.over.give()
	return r.Rung.Climb(ctx, try)
}

// mappedFirst is what a peer's first probe to a mapped port has in hand before
// ours leave by another port (gathered.mappedApart).
const mappedFirst = 50 * time.Millisecond

func (as *association) punchRung(c climbing, from []*endpoint) *punch.Rung {
	r := &punch.Rung{
		Conns: connsOf(from), Candidates: c.theirs.addrs, More: c.more,
		SharedOutside: sharesOutside(c.mine.outside, c.theirs.outside),
		FireAt:        c.fireAt, RTT: c.rtt, Plan: punch.DefaultPlan(),
		Context: func() *path.Failure {
			if as.a.link.ways().udpDead {
				return udpBlocked()
			}
			if f := noFamily(c.mine, as.lastHeard(c.theirs)); f != nil {
				return f
			}
			if f := as.a.noHairpin(c.mine, c.theirs); f != nil {
				return f
			}
			return whyNot(c.mine.behaviour, as.theirBehaviour(c.theirs))
		},
	}
	if c.fresh != nil {
		as.plan(r, c)
	}
	if c.near {
		r.Plan = r.Plan.Near()
	}
	if c.fresh == nil || as.raw != nil {
		r.Reversal = as.reversal(c, proto.Transport_TRANSPORT_UDP)
		r.Found = as.found()
	}
	if c.mine.mappedApart() {
		r.Plan.PrimeTTL, r.FireAt = 0, r.FireAt.Add(c.rtt/2+mappedFirst)
	}
	return r
}

// plan makes a rung from new ports go by both NATs' behaviours.
func (as *association) plan(r *punch.Rung, c climbing) {
	r.Plan = punch.PlanFor(c.mine.behaviour, c.theirs.behaviour, as.initiator, c.attempt)
	if as.raw != nil && r.Plan.Name == punch.Spray {
		r.Plan = punch.DefaultPlan() // the flow crosses sealed; not for each one a spray
	}
	if !c.mine.overUDP() || !c.theirs.overUDP {
		r.Plan = punch.DefaultPlan() // one side would shoot into a wall
	}
	if why := as.noSpray(c.theirs); why != nil && r.Plan.Name == punch.Spray {
		r.Plan, r.Context = punch.DefaultPlan(), func() *path.Failure { return why }
	}
	if best := as.Best(); best == path.None || best.Relayed() {
		r.Found = as.found()
	}
	r.Gunnery = punch.Gunnery{
		Shoot: func(p path.Path) error { return as.Shoot(p, path.DirectUDP) },
		Open: func(n int) (conns []dgram.Conn) {
			for range n {
				e, err := as.openOne()
				if err != nil {
					break
				}
				c.fresh.udp = append(c.fresh.udp, e)
				conns = append(conns, e.conn)
			}
			return conns
		},
		Theirs: c.theirs.behaviour, Ration: as.a.ration,
	}
}

// noSpray says that one side's settings want no spray: the other would send its
// part in vain. Nil: both do.
func (as *association) noSpray(theirs offered) *path.Failure {
	where := "here"
	switch {
	case !theirs.noSpray && as.a.cfg.Punch.Spray:
		return nil
	case theirs.noSpray:
		where = "of the peer"
	}
	return &path.Failure{Reason: "no-spray", Evidence: "ports of one NAT are random, so many have to be tried, and the settings " + where + " leave that out (punch.spray)",
		Advice: "let `punch: {spray: true}` stand there, and leave out --no-spray; or forward a UDP port on one side"}
}

func connsOf(endpoints []*endpoint) []dgram.Conn {
	conns := make([]dgram.Conn, 0, len(endpoints))
	for _, e := range endpoints {
		conns = append(conns, e.conn)
	}
	return conns
}

func udpBlocked() *path.Failure {
	return &path.Failure{Reason: "blocked", Evidence: "nothing comes back over UDP in this network, from the coordinator neither",
		Advice: "open UDP in the firewall here; TCP and what looks like it are tried instead"}
}

// whyNot explains a punch that failed where the NATs' mappings explain it.
func whyNot(mine, theirs *proto.Behaviour) *path.Failure {
	here, there := punch.NatureOf(mine) != punch.Easy, punch.NatureOf(theirs) != punch.Easy
	odds := punch.Odds(mine, theirs)
	if odds != "" {
		odds = "; " + odds
	}
	advice := "put one side behind a NAT whose mapping does not depend on the destination (many routers call it full cone or endpoint-independent), " +
		"forward a UDP port there, or use IPv6"
	switch {
	case here && there:
		return &path.Failure{Reason: "both-mappings-vary", Advice: advice,
			Evidence: "both NATs give each destination another port (" + dependence(mine) + " and " + dependence(theirs) + " mapping), so neither side can know where to send" + odds}
	case here:
		return &path.Failure{Reason: "own-mapping-varies", Advice: advice,
			Evidence: "the NAT here gives each destination another port (" + dependence(mine) + " mapping), and the peer's NAT filters by port" + odds}
	case there:
		return &path.Failure{Reason: "peer-mapping-varies", Advice: advice,
			Evidence: "the peer's NAT gives each destination another port (" + dependence(theirs) + " mapping), and the NAT here filters by port" + odds}
	}
	return nil
}

// dependence is RFC 4787's word for a mapping.
func dependence(b *proto.Behaviour) string { return stun.Behaviour(b.GetMapping()).String() }

// refused is the rung of a kind that a config does not allow.
type refused struct {
	kind path.Kind
	by   string
}

// Kind is the kind that is not allowed.
func (r refused) Kind() path.Kind { return r.kind }

// Climb says so.
func (r refused) Climb(context.Context, path.Try) error { return notAllowed(r.kind, r.by) }

func notAllowed(k path.Kind, by string) *path.Failure {
	return skip("not-allowed", "the config of "+by+" leaves it out of `paths`", "add "+k.String()+" to --paths there")
}

// hopeless is a rung that is not climbed, and why.
type hopeless struct {
	kind path.Kind
	why  *path.Failure
}

// Kind is the kind that is not tried.
func (r hopeless) Kind() path.Kind { return r.kind }

// Climb says why.
func (r hopeless) Climb(context.Context, path.Try) error { return r.why }

func (as *association) setTheirs(o offered) {
	mine := as.a.here.Load()
	as.a.refusals.refused(o, mine != nil && sharesOutside(mine.outside, o.outside))
	as.mu.Lock()
	as.heard.last = o
	as.mu.Unlock()
}

// theirBehaviour is the peer's as its answer told, or as its standing
// candidates did.
func (as *association) theirBehaviour(o offered) *proto.Behaviour {
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.heard.last.behaviour != nil {
		return as.heard.last.behaviour
	}
	return o.behaviour
}

// lastHeard is what the peer offered with its answer, or else o, what stood at
// the coordinator.
func (as *association) lastHeard(o offered) offered {
	as.mu.Lock()
	defer as.mu.Unlock()
	if len(as.heard.last.all) > 0 {
		return as.heard.last
	}
	return o
}
