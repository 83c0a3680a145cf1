//go:build linux

package programs_test

import (
	"testing"
	"time"

	"rendezvous/internal/natlab/programs"
)

// WireGuard works wherever a browser would, over the best path that the network
// leaves. The others of `make paths` are in tests of their own.
// S0-08, S0-10, S0-20, S0-21, S0-24, S4-01, S4-08, S4-09, S4-10
func TestWireGuardWhereUDPDoesNotPass(t *testing.T) {
	t.Parallel()
	const load = time.Second
	for _, x := range programs.Situations() {
		if x.Slow {
			continue
		}
		t.Run(x.Name, func(t *testing.T) {
			t.Parallel()
			n, j := x.Travel(t, load)
			t.Logf("home %s, laptop %s; first answer %v, best path %v; TCP %.0f Mbit/s, RST %d",
				j.Home, j.Laptop, j.FirstAnswer.Round(time.Millisecond), j.Best.Round(time.Millisecond), j.Mbit, j.Resets)
			if err := x.Arrived(j); err != nil {
				t.Error(err)
			}
			// Data flows within 2 s of the first datagram, best rung within 6 s.
			if j.FirstAnswer > 2*time.Second || j.Best > 6*time.Second {
				t.Errorf("the first answer took %v, the best path %v", j.FirstAnswer, j.Best)
			}
			if j.Mbit < 1 {
				t.Errorf("iperf3 through WireGuard got %.1f Mbit/s", j.Mbit)
			}
			if f := n.Fragments(); f != 0 {
				t.Errorf("%d IP fragments on the wires", f)
			}
		})
	}
}
