package pairs

import (
	"math"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
)

// A few pairs of the matrix, so that what breaks one is seen before `make
// matrix`. Row S4-12: the matrix of NATs runs whole agents.
func TestPairs(t *testing.T) {
	kinds := []string{"public", "ei-ad", "ei-apd", "cgn+home", "apd-apd-random"}
	var only [][2]string
	for i, x := range kinds {
		for _, y := range kinds[i:] {
			a, _ := Find(x)
			b, _ := Find(y)
			if a.choice() == independent && b.choice() == independent || Easy(a, b) {
				only = append(only, [2]string{x, y})
			}
		}
	}
	const roundTrip = 40 * time.Millisecond
	bubble.Test(t, func(t *testing.T) {
		plan := Plan{Kinds: kinds, Scenes: []string{"same-lan", "same-lan-hairpin"}, Only: only, Runs: 2, Members: 2, RoundTrip: roundTrip, Seed: 4}
		tallies := plan.Run(t)
		if len(tallies) != len(only)+2 {
			t.Errorf("%d pairs and scenes have met", len(tallies))
		}
		for _, x := range tallies {
			if x.Share() < 1 || x.Time(1) > 8*roundTrip {
				t.Errorf("%s × %s: %d of %d direct, %v at most, by %v; %v", x.A, x.B, x.Direct, x.Runs, x.Time(1), x.Paths, x.Reasons)
			}
			if x.Packets(1) == 0 || x.Packets(1) > 100 {
				t.Errorf("%s × %s: one side sent %d packets", x.A, x.B, x.Packets(1))
			}
		}
	})
}

// Members that have met begin again as if they had not.
func TestPartsMeetAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, 9, 40*time.Millisecond)
		defer w.close()
		home, _ := Find("ei-apd")
		a, b := w.join(home, 0), w.join(home, 1)
		if err := w.ready([]*member{a, b}); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if m := w.meet(a, b); !m.Direct || m.Took < 40*time.Millisecond {
				t.Errorf("meeting %d: %+v", i, m)
			}
			for _, m := range []*member{a, b} {
				if peers := m.agent.Status().Peers; len(peers) != 0 {
					t.Errorf("after meeting %d %s still has %+v", i, m.name, peers)
				}
			}
		}
	})
}

func TestWeights(t *testing.T) {
	sum := 0.0
	for _, w := range Weights() {
		if _, ok := Find(w.Kind); !ok {
			t.Errorf("there is no kind %q", w.Kind)
		}
		sum += w.Share
	}
	if math.Abs(sum-100) > 0.5 {
		t.Errorf("the weights sum to %v", sum)
	}
}

func TestTotal(t *testing.T) {
	weights := []Weight{{Kind: "ei-apd", Share: 30, Home: true}, {Kind: "apd-apd-random", Share: 10}}
	share := func(a, b string) float64 {
		if a == "apd-apd-random" && b == a {
			return 0
		}
		return 1
	}
	for name, c := range map[string]struct {
		help Help
		want float64
	}{
		"NATs alone":   {Help{}, 1 - 1.0/16},
		"port mapping": {Help{Mapping: 0.5}, 1 - 1.0/16},
		"IPv6":         {Help{IPv6: 0.5}, 1 - 1.0/16}, // the kind ipv6 reaches itself
		"all":          {Help{Mapping: 1, IPv6: 1}, 1},
	} {
		with := share
		if name == "IPv6" {
			c.want = 1 - 1.0/16*(1-0.25)
		}
		if got := Total(weights, c.help, with); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestMissing(t *testing.T) {
	weights := []Weight{{Kind: "ei-apd", Share: 30}, {Kind: "apd-apd-random", Share: 10}}
	random, _ := Find("apd-apd-random")
	got := Missing(weights, func(a, b string) float64 {
		switch {
		case a != b:
			return 0.5
		case a == "ei-apd":
			return 1
		}
		return 0
	})
	if len(got) != 2 || math.Abs(got[Why(random, random)]-1.0/16) > 1e-9 || math.Abs(got[""]-3.0/16) > 1e-9 {
		t.Errorf("%v", got)
	}
}

// Whatever has no reason in its nature to fail must not be listed with one, and
// the other way round.
func TestWhy(t *testing.T) {
	for _, c := range []struct {
		a, b string
		why  bool
	}{
		{"ei-apd", "ei-apd", false}, {"apd-apd-random", "ei-apd", false}, {"apd-apd-random", "apd-apd-random", true},
		{"apd-apd-random", "apd-apd-seq", true}, {"apd-apd-seq", "apd-apd", false}, {"ei-ei", "https-only", false}, {"cgn+home", "https-only", true},
		{"ei-apd", "ipv6-only", true}, {"ipv6", "ipv6-only", false}, {"no-udp", "ei-apd", false}, {"no-udp", "apd-apd-random", true},
		{"ei-apd", "apd-apd-random-512", true}, {"cgn+apd", "cgn+apd", true}, {"cgn+home", "cgn-seq+home", false},
	} {
		a, _ := Find(c.a)
		b, _ := Find(c.b)
		for _, got := range []string{Why(a, b), Why(b, a)} {
			if (got != "") != c.why {
				t.Errorf("%s × %s: %q", c.a, c.b, got)
			}
		}
	}
}

func TestTally(t *testing.T) {
	x, y := newTally("a", "b"), newTally("a", "b")
	for i := range 100 {
		x.add(Meeting{Path: "direct-udp", Direct: true, Took: time.Duration(i) * time.Millisecond, Sent: [2]int{i, 2 * i}})
	}
	y.add(Meeting{Path: "relay-udp", Sent: [2]int{500, 1}, Explain: "no-answer"})
	x.Merge(y)
	if got := x.Within(49 * time.Millisecond); math.Abs(got-50.0/101) > 1e-9 {
		t.Errorf("%v within 49 ms", got)
	}
	if x.Runs != 101 || x.Direct != 100 || Usual(x.Paths) != "direct-udp" || Usual(x.Reasons) != "no-answer" {
		t.Errorf("%+v", x)
	}
	if m, p, most := x.Time(.5), x.Time(.95), x.Packets(1); m != 50*time.Millisecond || p != 95*time.Millisecond || most != 500 {
		t.Errorf("median %v, 95 of 100 %v, at most %d packets", m, p, most)
	}
}
