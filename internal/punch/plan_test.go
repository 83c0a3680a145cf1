package punch

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"rendezvous/proto"
)

const (
	eim  = proto.Behaviour_ENDPOINT_INDEPENDENT
	adm  = proto.Behaviour_ADDRESS_DEPENDENT
	apdm = proto.Behaviour_ADDRESS_AND_PORT_DEPENDENT
)

func behaviour(mapping, filtering proto.Behaviour_Dependence, change ...func(*proto.Behaviour)) *proto.Behaviour {
	b := &proto.Behaviour{Mapping: mapping, Filtering: filtering, Addresses: 1}
	for _, f := range change {
		f(b)
	}
	return b
}

func keeps(b *proto.Behaviour) { b.PortPreserving = true }
func steps(b *proto.Behaviour) { b.PortDelta, b.LastPort = 2, 65530 }
func pools(b *proto.Behaviour) { b.Addresses = 4 }

var (
	home      = behaviour(eim, apdm, keeps)
	fullCone  = behaviour(eim, eim, keeps)
	kept      = behaviour(apdm, apdm, keeps)
	stepping  = behaviour(apdm, apdm, steps)
	byAddress = behaviour(adm, apdm, steps)
	scattered = behaviour(apdm, apdm)
	admitting = behaviour(apdm, adm)
	pooled    = behaviour(apdm, apdm, pools)
)

func TestPlansOfPairs(t *testing.T) {
	for _, c := range []struct {
		one, two   *proto.Behaviour
		name       string
		first, sec Role
	}{
		{nil, nil, Plain, Role{}, Role{}},
		{home, home, Plain, Role{}, Role{}},
		{fullCone, stepping, Plain, Role{}, Role{}},
		{scattered, fullCone, Plain, Role{}, Role{}},
		{fullCone, pooled, Hopeless, Role{}, Role{}},
		{home, kept, Unasked, Role{}, Role{Single: true}},
		{home, stepping, Predict, Role{Window: 64}, Role{Sockets: 8}},
		{home, scattered, Spray, Role{Shots: 1500}, Role{Sockets: 256}},
		{home, admitting, Spray, Role{Shots: 1500}, Role{Sockets: 256}},
		{stepping, stepping, Predict, Role{Window: 64}, Role{Window: 64, Stride: 2}},
		{stepping, byAddress, Predict, Role{Window: 64}, Role{Window: 64}},
		{kept, stepping, Predict, Role{Single: true, Window: 4, Stride: 2, Ahead: 21}, Role{Sockets: 16, Every: true}},
		{kept, byAddress, Predict, Role{Single: true, Window: 4, Stride: 2, Ahead: 5}, Role{Sockets: 16, Every: true}},
		{scattered, admitting, Spray, Role{Shots: 1500}, Role{Sockets: 256}},
		{scattered, scattered, Hopeless, Role{}, Role{}},
		{scattered, stepping, Hopeless, Role{}, Role{}},
		{pooled, home, Hopeless, Role{}, Role{}},
	} {
		one, two := PlanFor(c.one, c.two, true, 2), PlanFor(c.two, c.one, false, 2)
		if one.Name != c.name || one.Role != c.first || two.Name != c.name || two.Role != c.sec {
			t.Errorf("%v, %v: %s %+v and %s %+v; want %s %+v and %+v", NatureOf(c.one), NatureOf(c.two), one.Name, one.Role, two.Name, two.Role,
				c.name, c.first, c.sec)
		}
	}
}

// Whoever begins, both sides go by one plan, and each pair of sides has the
// parts that belong together.
func TestPlansFitTogether(t *testing.T) {
	all := []*proto.Behaviour{nil, home, fullCone, kept, stepping, byAddress, scattered, admitting, pooled}
	for _, a := range all {
		for _, b := range all {
			one, two := PlanFor(a, b, true, 3), PlanFor(b, a, false, 3)
			if one.Name != two.Name || one.Least != two.Least {
				t.Errorf("%v, %v: %s and %s", a, b, one.Name, two.Name)
			}
			if turned := PlanFor(a, b, false, 3); turned.Name != one.Name {
				t.Errorf("%v, %v: %s, and %s when the other side begins", a, b, one.Name, turned.Name)
			}
			if (one.Role.Shots > 0) != (two.Role.Sockets == sprayed) {
				t.Errorf("%v, %v: %+v against %+v", a, b, one.Role, two.Role)
			}
			if one.Role.Shots+one.Role.Window*len(predictRounds)+one.Role.Sockets*(1+len(holdRounds)) > DefaultBudget.PerTarget {
				t.Errorf("%v, %v: %+v is over the budget", a, b, one.Role)
			}
		}
	}
}

func TestUnknownMappingIsSupposedToVaryInTheEnd(t *testing.T) {
	unknown := behaviour(proto.Behaviour_DEPENDENCE_UNKNOWN, apdm, steps)
	if n := PlanFor(home, unknown, true, 2).Name; n != Plain {
		t.Errorf("the second attempt is %s", n)
	}
	if n := PlanFor(home, unknown, true, 3).Name; n != Predict {
		t.Errorf("the third attempt is %s", n)
	}
	if unknown.Mapping != proto.Behaviour_DEPENDENCE_UNKNOWN {
		t.Error("what was told of the NAT has changed")
	}
}

// Whom servers saw to let strangers in need not let the peer in: such a belief
// puts the attempts in order and cancels none.
//
// S4-18
func TestOpenFilteringIsNotBelievedForEver(t *testing.T) {
	reached := fullCone
	for attempt, want := range map[uint32]string{1: Plain, 2: Plain, 3: Spray} {
		if n := PlanFor(reached, scattered, true, attempt).Name; n != want {
			t.Errorf("attempt %d: %s, want %s", attempt, n, want)
		}
	}
}

// Four sockets that have one shot each against one that goes round them: one
// of them meets it, whatever ports others take before.
func TestOneOfFourShotsMeets(t *testing.T) {
	ports := predict(stepping, once.Window, once.Ahead, once.Stride)
	for others := range ahead {
		met := 0
		given := predict(stepping, round.Sockets*UnaskedSockets+others, 0, 1)[others:]
		for i, port := range ports {
			if slices.Index(given, port)%UnaskedSockets == i && slices.Contains(given, port) {
				met++
			}
		}
		if met != 1 {
			t.Errorf("others took %d ports: %d shots meet", others, met)
		}
	}
}

func TestPredictedPortsGoRound(t *testing.T) {
	if got := predict(stepping, 5, 0, 1); !slices.Equal(got, []uint16{65532, 65534, 1024, 1026, 1028}) {
		t.Error(got)
	}
	down := behaviour(apdm, apdm, func(b *proto.Behaviour) { b.PortDelta, b.LastPort = -1, 1025 })
	if got := predict(down, 3, 0, 2); !slices.Equal(got, []uint16{1024, 65534, 65532}) {
		t.Error(got)
	}
	if got := predict(scattered, 3, 0, 1); got != nil {
		t.Error(got)
	}
}

// Two runs of ports meet wherever they begin: one side strides by two.
func TestRunsMeet(t *testing.T) {
	for offset := range 30 {
		for other := range 30 {
			met := false
			for k := 1; k <= window && !met; k++ {
				// Our k-th shot leaves from our port k+offset and goes to the
				// peer's port k; its j-th leaves from j+other and goes to ours 2j-1.
				for j := 1; j <= window; j++ {
					met = met || k+offset == 2*j-1 && j+other == k
				}
			}
			if want := offset+other < window/2; want && !met {
				t.Errorf("offsets %d and %d: no shots meet", offset, other)
			}
		}
	}
}

func TestScatteredPortsAreDifferentAndOfTheBand(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct{ low, high, n, want int }{
		{0, 0, 1500, 1500}, {20000, 20999, 1500, 1500}, {1024, 1124, 1500, 127}, {65000, 65535, 700, 670},
	} {
		b := behaviour(apdm, apdm, func(b *proto.Behaviour) { b.PortLow, b.PortHigh = uint32(c.low), uint32(c.high) })
		ports := scatter(b, c.n, r.IntN)
		if len(ports) != c.want {
			t.Errorf("%+v: %d ports", c, len(ports))
		}
		wide := (c.high - c.low + 1) / 4
		for _, p := range ports {
			if p < lowest || c.high > 0 && (int(p) < c.low-wide-1 || int(p) > c.high+wide+1) {
				t.Fatalf("%+v: port %d", c, p)
			}
		}
		slices.Sort(ports)
		if len(slices.Compact(ports)) != c.want {
			t.Errorf("%+v: the same port twice", c)
		}
	}
}

func TestOdds(t *testing.T) {
	for want, b := range map[string][2]*proto.Behaviour{
		"99.7 %": {home, scattered}, "0.025 %": {scattered, scattered}, "another outside address": {pooled, home},
		"opens nothing for the rest": {stepping, scattered},
	} {
		if got := Odds(b[0], b[1]); !strings.Contains(got, want) {
			t.Errorf("%v: %q", want, got)
		}
	}
	if got := fmt.Sprint(Odds(home, stepping)); got != "" {
		t.Error(got)
	}
}
