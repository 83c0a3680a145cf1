package pairs

import (
	"fmt"
	"time"

	"rendezvous/internal/natlab"
)

// choice is how hard a kind's new ports are to foresee.
type choice uint8

const (
	independent choice = iota // there is nothing to foresee
	foreseen                  // preserved, or by a rule
	anyPort
	unreached // no UDP, or no common family
)

func (k Kind) choice() choice {
	if k.NoUDP || k.NoIPv4 {
		return unreached
	}
	worst := independent
	for _, b := range []*natlab.Behaviour{k.Outer, k.Inner} {
		switch {
		case b == nil || b.Mapping == natlab.EndpointIndependent:
		case b.Ports.Random():
			return anyPort
		default:
			worst = foreseen
		}
	}
	// What an independent carrier's NAT translates again is anybody's guess:
	// a new mapping at home is a new one there.
	if worst == foreseen && k.Outer.Ports.Random() {
		return anyPort
	}
	return worst
}

// letsIn says whether k lets in strangers, or strange ports of an address that
// it knows, at a port that peers can be told.
func (k Kind) letsIn() bool {
	if k.choice() == unreached {
		return false
	}
	widest := natlab.EndpointIndependent
	for _, b := range []*natlab.Behaviour{k.Outer, k.Inner} {
		if b != nil {
			widest = max(widest, b.Filtering)
		}
	}
	return widest == natlab.EndpointIndependent || widest == natlab.AddressDependent && k.choice() == independent
}

// Group is pairs that have a target in common.
type Group struct {
	Name, Target string
	// RoundTrips says that times are told in round trips to the coordinator.
	RoundTrips bool
	has        func(a, b Kind) bool
	met        func(t *Tally, roundTrip time.Duration) bool
}

// Groups are those with targets.
func Groups() []Group {
	return []Group{
		{"both mappings endpoint-independent", "median within 5 round trips to the coordinator, 95 of 100 within 8", true,
			func(a, b Kind) bool { return a.choice() == independent && b.choice() == independent },
			func(t *Tally, roundTrip time.Duration) bool {
				return t.Time(.5) <= 5*roundTrip && t.Time(.95) <= 8*roundTrip && t.Share() > 0.99
			}},
		{"a port to foresee, no other to guess", "median within 1.5 s", false,
			func(a, b Kind) bool { return max(a.choice(), b.choice()) == foreseen && !Easy(a, b) },
			func(t *Tally, _ time.Duration) bool { return t.Time(.5) <= 1500*time.Millisecond && t.Share() > 0.9 }},
		{"any port on one side", "98 % within 12 s, at most 2,500 packets of a side", false,
			func(a, b Kind) bool {
				return max(a.choice(), b.choice()) == anyPort && min(a.choice(), b.choice()) == independent && !Easy(a, b) && !a.poor() && !b.poor()
			},
			func(t *Tally, _ time.Duration) bool {
				return t.Within(12*time.Second) >= 0.98 && t.Packets(1) <= 2500
			}},
	}
}

// poor says whether a limit of mappings keeps a side from opening as many as
// it takes.
func (k Kind) poor() bool { return k.Outer != nil && k.Outer.Mappings > 0 }

// Met says whether what came of the group's pairs meets its target.
func (g Group) Met(t *Tally, roundTrip time.Duration) bool {
	if t.Runs == 0 {
		return false
	}
	return g.met(t, roundTrip)
}

// Has says whether the pair is of the group.
func (g Group) Has(a, b Kind) bool { return g.has(a, b) }

// Easy says whether one side lets the other in from ports that nobody foresaw.
func Easy(a, b Kind) bool { return a.letsIn() || b.letsIn() }

// Tally is that of all pairs of the group among those of tallies.
func (g Group) Tally(tallies Tallies) *Tally {
	sum := newTally(g.Name, g.Name)
	for _, t := range tallies {
		a, known := Find(t.A)
		b, both := Find(t.B)
		if known && both && g.has(a, b) {
			sum.Merge(t)
		}
	}
	return sum
}

// Figure is a time as the group's target has it.
func (g Group) Figure(d, roundTrip time.Duration) string {
	if g.RoundTrips {
		return fmt.Sprintf("%.1f round trips", float64(d)/float64(roundTrip))
	}
	return fmt.Sprintf("%d ms", d.Milliseconds())
}

// Why is what keeps a pair from a direct path by the nature of both NATs; ""
// where nothing does.
func Why(a, b Kind) string {
	switch {
	case a.OnlyHTTPS && !b.keepsPort() || b.OnlyHTTPS && !a.keepsPort():
		return "nothing but TCP to port 443 passes, and the other side's NAT gives it another port"
	case a.NoIPv4 && !b.IPv6 || b.NoIPv4 && !a.IPv6:
		return "one side has IPv6 alone, the other IPv4 alone"
	case a.IPv6 && b.IPv6:
		return ""
	case a.NoUDP || b.NoUDP:
		if max(a.tcpChoice(), b.tcpChoice()) == anyPort {
			return "no UDP, and no way to foresee the other side's TCP port; of TCP's ports few can be tried"
		}
		return ""
	case Easy(a, b):
		return ""
	}
	return unforeseen(a, b)
}

// unforeseen is why no port of both sides' can be foreseen, or tried.
func unforeseen(a, b Kind) string {
	switch one, other := max(a.choice(), b.choice()), min(a.choice(), b.choice()); {
	case one == anyPort && other == anyPort:
		return "both sides get any port for each destination: the two that would meet are one pair of millions"
	case one == anyPort && other == foreseen:
		return "one side gets any port for each destination, and the other's port changes with each that is tried"
	case a.poor() || b.poor():
		return "a limit of mappings keeps one side from opening enough of them"
	}
	return ""
}

// keepsPort says whether the port of a new socket is the same outside.
func (k Kind) keepsPort() bool {
	return !k.NoIPv4 && (k.Outer == nil || k.Outer.Ports.Preserved()) && (k.Inner == nil || k.Inner.Ports.Preserved())
}

// tcpChoice is choice of TCP's ports, which all kinds choose as they do UDP's.
func (k Kind) tcpChoice() choice {
	k.NoUDP = false
	return k.choice()
}
