package faketcp

import (
	"net/netip"
	"testing"
	"time"
)

// S4-04: a router that answers every SYN with RST draws a bounded number of
// them, whatever the number of its addresses and ports.
func TestResetsDrawFewSYNs(t *testing.T) {
	x := newTable(Options{}, 40000)
	var flows []*flow
	for i := range uint16(32) {
		f, err := x.opening(time.Second, netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 2000+i), 0)
		if err != nil {
			t.Fatal(err)
		}
		f.hs.waiters++
		flows = append(flows, f)
	}
	sent := 0
	for now := time.Second; now < 11*time.Second; now += time.Millisecond {
		for _, f := range flows {
			before := f.hs.sent
			x.handshake(now, f)
			if x.out = x.out[:0]; f.hs.sent > before {
				sent++
				x.receive(now, &segment{remote: f.remote, flags: flagRST | flagACK}, 0, 1)
			}
		}
	}
	usual := 0 // what 32 handshakes send without any answer
	for range flows {
		usual += 15 + 27 + 14
	}
	if most := mostAgain + 10*125 + usual; sent > most || sent < mostAgain {
		t.Errorf("%d SYNs in 10 s to a router that answers each by RST; at most %d are meant", sent, most)
	}
	if x.counts.Limited == 0 {
		t.Error("none was held back, or that is not counted")
	}
}
