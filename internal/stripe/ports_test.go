package stripe

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
)

func TestParsePorts(t *testing.T) {
	tests := []struct {
		in, want string
		ok       bool
	}{
		{"", "", true},
		{"22", "22", true},
		{" 22 , 30000-30100,", "22, 30000-30100", true},
		{"5061-29999, 5060, 5061, 5062", "5060-29999", true}, // a list that overlaps itself is one set
		{"1-65535", "1-65535", true},
		{"65535,1", "1, 65535", true},
		{"0", "", false},
		{"65536", "", false},
		{"9-8", "", false},
		{"ssh", "", false},
		{"1-2-3", "", false},
	}
	for _, test := range tests {
		got, err := ParsePorts(test.in)
		if ok := err == nil; ok != test.ok || got.String() != test.want {
			t.Errorf("%q is %q, %v; want %q", test.in, got, err, test.want)
		}
	}
	if _, err := ParsePorts("a,1,b"); err == nil || len(err.Error()) < 100 {
		t.Errorf("both faults are to be told: %v", err)
	}
}

// oracle is a set of ports as an array of bits.
type oracle [65536]bool

func (o *oracle) add(p []Range, is bool) {
	for _, r := range p {
		for n := int(r.First); n <= int(r.Last); n++ {
			o[n] = is
		}
	}
}

func randomRanges(rnd *rand.Rand) []Range {
	edges := []uint16{1, 2, 22, 443, 444, 5060, 5061, 32768, 65534, 65535}
	out := make([]Range, rnd.IntN(12))
	for i := range out {
		a, b := uint16(1+rnd.IntN(65535)), uint16(1+rnd.IntN(65535))
		if rnd.IntN(2) == 0 {
			a = edges[rnd.IntN(len(edges))]
		}
		if rnd.IntN(3) == 0 {
			b = edges[rnd.IntN(len(edges))]
		}
		out[i] = Range{min(a, b), max(a, b)}
		if rnd.IntN(2) == 0 {
			out[i].Last = out[i].First
		}
	}
	return out
}

// disjoint says whether the ranges are in order, and none overlaps or touches
// another: what nftables takes as the elements of a set.
func disjoint(p Ports) bool {
	for i, r := range p {
		if r.First < 1 || r.Last < r.First || i > 0 && uint32(r.First) <= uint32(p[i-1].Last)+1 {
			return false
		}
	}
	return true
}

// Whatever is excluded and held, no two ranges of a rule overlap, and each port
// is where it belongs.
// S2-02, S2-04
func TestPlanHasNoOverlap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	addrs := []netip.Addr{netip.MustParseAddr("203.0.113.10")}
	for range 300 {
		excluded, udp, tcp := randomRanges(rnd), randomRanges(rnd), randomRanges(rnd)
		c := Config{Addrs: addrs, UDP: 443, TCP: uint16(1 + rnd.IntN(65535)), Exclude: Of(excluded...)}
		r, err := Plan(c, Held{UDP: Of(udp...), TCP: Of(tcp...)})
		if err != nil {
			t.Fatal(err)
		}
		for _, side := range []struct {
			lead Lead
			held []Range
		}{{r.UDP, udp}, {r.TCP, tcp}} {
			var want oracle
			want.add(All(), true)
			want.add(excluded, false)
			want.add(side.held, false)
			want.add([]Range{{22, 22}, {side.lead.To, side.lead.To}}, false)
			if !disjoint(side.lead.Ports) {
				t.Fatalf("ranges overlap or touch: %v", side.lead.Ports)
			}
			count := 0
			for n, is := range want {
				if is {
					count++
				}
				if got := side.lead.Ports.Has(uint16(n)); got != is {
					t.Fatalf("port %d is striped: %v, want %v; excluded %v, held %v", n, got, is, excluded, side.held)
				}
			}
			if got := side.lead.Ports.Count(); got != count {
				t.Fatalf("%d ports, want %d", got, count)
			}
			again, err := ParsePorts(side.lead.Ports.String())
			if err != nil || !slices.Equal(again, side.lead.Ports) {
				t.Fatalf("%v reads as %v, %v", side.lead.Ports, again, err)
			}
		}
	}
}
