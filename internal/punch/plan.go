package punch

import (
	"fmt"
	"math"
	"time"

	"rendezvous/proto"
)

// Plan is how one side goes about a pair of NAT behaviours.
type Plan struct {
	// Name is that of the pair's plan, the same on both sides.
	Name string
	// PrimeTTL is the hop limit of the datagram that opens our own NAT before
	// the instant to fire: past a home NAT and a carrier's, short of the
	// peer's. 4 worked with three hops between the networks. 0: the peer is to
	// speak first, and nothing is sent before.
	PrimeTTL int
	// PrimeRouters makes the prime pass so many routers, and no other, in place
	// of PrimeTTL: a peer's NAT that is nearer than the TTL reaches would take it
	// as addressed to itself. 0 leaves it at the TTL.
	PrimeRouters int
	// Pace is the wait between the first probes of two candidates (Ta of RFC
	// 8445 section 14.2, which allows 5 ms).
	Pace time.Duration
	// RoundTrips is how long to wait for an answer before this 5-tuple is
	// given up as poisoned: more probes would keep a wrong entry of a NAT's
	// connection tracking alive.
	RoundTrips int
	// Least bounds that wait from below, for the jitter of short paths.
	Least time.Duration
	// Role is what this side does besides.
	Role Role
}

// Role is one side's part in a plan. The zero Role probes the candidates from
// one socket of each family, as every punch does.
type Role struct {
	// Single gives each of our sockets one candidate of the peer: the NAT keeps
	// a socket's own port towards the first destination only. These sockets are
	// UnaskedSockets, and no server was asked about them.
	Single bool
	// Sockets are new ones that each open a mapping towards the peer.
	Sockets int
	// Every has each of them open one towards every candidate behind the peer's
	// NAT, in turn.
	Every bool
	// Window is how many of the ports to shoot at that the peer's NAT is about
	// to give, from its last one on.
	Window int
	// Ahead is how many steps to leave out before the first of them.
	Ahead int
	// Stride is how many steps lie between two of them; 0 is 1. Where both
	// sides' ports run on with each shot, one side strides by two, so that the
	// two runs meet whatever lies between.
	Stride int
	// Shots is how many of the peer's ports to shoot at by chance.
	Shots int
}

// shoots says whether either side does more than probe candidates, so that a
// path may come later.
func (p Plan) shoots() bool { return p.Name == Predict || p.Name == Spray }

// The names of plans.
const (
	Plain    = "plain"    // the candidates that servers saw
	Unasked  = "unasked"  // sockets whose own port the NAT keeps
	Predict  = "predict"  // ports that follow the last one
	Spray    = "spray"    // many sockets on one side, many ports on the other
	Hopeless = "hopeless" // plain, and no more: chance is too small
)

// DefaultPlan suits every pair whose mappings do not depend on the
// destination.
func DefaultPlan() Plan {
	return Plan{Name: Plain, PrimeTTL: 4, Pace: 5 * time.Millisecond, RoundTrips: 3, Least: 500 * time.Millisecond}
}

// Near is p for a peer whose NAT may be the next router behind ours, with none
// between.
func (p Plan) Near() Plan {
	p.PrimeRouters = 1
	return p
}

// Figures of the roles: with 256 sockets against 1500 ports the chance to miss
// is exp(-256*1500/64512), 0.3 % (a birthday's arithmetic); 64 steps cover the
// sockets of the peer and what its neighbours take meanwhile.
const (
	sprayed   = 256
	shots     = 1500
	stepped   = 8
	window    = 64
	laps      = 16 // sockets that each go round the peer's, which keep their port once
	ahead     = laps * UnaskedSockets / 3
	usable    = 64512 // ports from 1024 on
	longest   = 12 * time.Second
	predicted = 2500 * time.Millisecond
)

// UnaskedSockets is how many sockets a side opens whose own port its NAT keeps
// towards the first destination.
const UnaskedSockets = 4

// Where one side's sockets have one shot each, at a port that the other's NAT is
// about to give, nobody knows how many its neighbours take meanwhile. So the
// other side's sockets go round the first's, which makes every fourth port lead
// to the same one; each of these aims at a port by one further in its round. Then
// one of them is right whatever the neighbours took, as long as that leaves the
// port within the laps.
var (
	once  = Role{Single: true, Window: UnaskedSockets, Stride: 2, Ahead: ahead}
	round = Role{Sockets: laps, Every: true}
	// onceNear is for a NAT that has one port for a whole round: any will do.
	onceNear = Role{Single: true, Window: UnaskedSockets, Stride: 2, Ahead: laps / 3}
)

// pair is what each of two sides does. first is the side that began.
type pair struct {
	name          string
	first, second Role
}

// table has a plan for each pair of natures, first side first.
var table = [...][5]pair{
	Easy: {
		Easy:      {name: Plain},
		Kept:      {Unasked, Role{}, Role{Single: true}},
		Stepping:  {Predict, Role{Window: window}, Role{Sockets: stepped}},
		Scattered: {Spray, Role{Shots: shots}, Role{Sockets: sprayed}},
		Pooled:    {name: Hopeless},
	},
	Kept: {
		Easy:      {Unasked, Role{Single: true}, Role{}},
		Kept:      {Unasked, Role{Single: true}, Role{Single: true}},
		Stepping:  {Predict, once, round},
		Scattered: {name: Hopeless},
		Pooled:    {name: Hopeless},
	},
	Stepping: {
		Easy:      {Predict, Role{Sockets: stepped}, Role{Window: window}},
		Kept:      {Predict, round, once},
		Stepping:  {Predict, Role{Window: window}, Role{Window: window, Stride: 2}},
		Scattered: {name: Hopeless},
		Pooled:    {name: Hopeless},
	},
	Scattered: {
		Easy:      {Spray, Role{Sockets: sprayed}, Role{Shots: shots}},
		Kept:      {name: Hopeless},
		Stepping:  {name: Hopeless},
		Scattered: {name: Hopeless},
		Pooled:    {name: Hopeless},
	},
	Pooled: {
		Easy:      {name: Hopeless},
		Kept:      {name: Hopeless},
		Stepping:  {name: Hopeless},
		Scattered: {name: Hopeless},
		Pooled:    {name: Hopeless},
	},
}

// PlanFor is the plan of one side for two behaviours, either of which may be
// nil. Both sides come to the same: first says whether ours is the side that
// began the introduction. attempt counts from 1.
func PlanFor(mine, theirs *proto.Behaviour, first bool, attempt uint32) Plan {
	mine, theirs = Suppose(mine, attempt), Suppose(theirs, attempt)
	one, two := mine, theirs
	if !first {
		one, two = theirs, mine
	}
	p := pairOf(one, two)
	plan := DefaultPlan()
	plan.Name, plan.Role = p.name, p.first
	if !first {
		plan.Role = p.second
	}
	switch p.name {
	case Predict:
		plan.Least = predicted
	case Spray:
		plan.Least = longest
	}
	return plan
}

// pairOf looks the plan up, and what filtering makes easier.
func pairOf(one, two *proto.Behaviour) pair {
	a, b := NatureOf(one), NatureOf(two)
	switch {
	case a == Pooled || b == Pooled:
	case open(one), open(two):
		return pair{name: Plain} // the other side comes in from whichever port it has
	case a != Easy && admitsAnywhere(two):
		return pair{Spray, Role{Shots: shots}, Role{Sockets: sprayed}}
	case b != Easy && admitsAnywhere(one):
		return pair{Spray, Role{Sockets: sprayed}, Role{Shots: shots}}
	}
	return steady(one, two, table[a][b])
}

// steady is p where a stepping side has one port for all of the peer's: then the
// other side need not reckon with ports that run on with each shot.
func steady(one, two *proto.Behaviour, p pair) pair {
	switch a, b := NatureOf(one), NatureOf(two); {
	case a == Stepping && b == Stepping && !(runsOn(one) && runsOn(two)):
		return pair{Predict, Role{Window: window}, Role{Window: window}}
	case a == Kept && b == Stepping && !runsOn(two):
		return pair{Predict, onceNear, round}
	case a == Stepping && b == Kept && !runsOn(one):
		return pair{Predict, round, onceNear}
	}
	return p
}

// open says that what a peer sends from wherever comes in where servers see us.
func open(b *proto.Behaviour) bool { return NatureOf(b) == Easy && admits(b) }

// admitsAnywhere says that any of the ports of a NAT that scatters them lets
// the peer in.
func admitsAnywhere(b *proto.Behaviour) bool { return NatureOf(b) == Scattered && admits(b) }

// runsOn says whether each of several destinations at one address takes another
// port.
func runsOn(b *proto.Behaviour) bool {
	return b.GetMapping() == proto.Behaviour_ADDRESS_AND_PORT_DEPENDENT
}

// Odds tells of a plan's chance where it is one of numbers; empty where it is
// not.
func Odds(mine, theirs *proto.Behaviour) string {
	a, b := NatureOf(mine), NatureOf(theirs)
	switch {
	case a == Pooled || b == Pooled:
		return "a NAT takes another outside address for each destination, so no port can be aimed at"
	case a == Scattered && b == Scattered:
		n := float64(min(band(mine), band(theirs)))
		const sent = 1024
		return fmt.Sprintf("with %d datagrams from each side two random ports of %.0f meet with a chance of %.2g %%; for a half it would take %.0f",
			sent, n, 100*-math.Expm1(-(sent/n)*(sent/n)), n*math.Sqrt(math.Ln2))
	case max(a, b) == Scattered && min(a, b) != Easy:
		return fmt.Sprintf("one NAT gives any of %d ports, and the other gives each of them that is tried another port of its own, so what is sent there opens nothing for the rest", max(band(mine), band(theirs)))
	case a == Scattered || b == Scattered:
		return fmt.Sprintf("%d sockets against %d of %d ports meet with a chance of %.1f %%", sprayed, shots, band(mine)+band(theirs)-usable,
			100*-math.Expm1(-float64(sprayed)*shots/float64(band(mine)+band(theirs)-usable)))
	}
	return ""
}

// band is how many ports a NAT takes new ones from, where that is known to be
// fewer than all.
func band(b *proto.Behaviour) int {
	if b.GetPortHigh() > b.GetPortLow() && NatureOf(b) == Scattered {
		return int(b.GetPortHigh()-b.GetPortLow()) + 1
	}
	return usable
}
