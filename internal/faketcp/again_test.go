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

// S4-10: a RST hits our NAT between our SYN/ACK and the peer's ACK. The NAT lets
// no SYN pass any more, but it does pass the ACK, and that ends the handshake.
// Without a SYN/ACK of ours the NAT wants one of the peer's first.
func TestACKBehindARST(t *testing.T) {
	for _, crossed := range []bool{true, false} {
		b := newBench(t, Options{})
		peer := netip.MustParseAddrPort("192.0.2.1:1000")
		f, err := b.opening(b.now, peer, 0)
		if err != nil {
			t.Fatal(err)
		}
		f.hs.waiters++
		b.handshake(b.now, f)
		if crossed {
			b.give(strangerSYN(peer, 7000), 0)
		}
		b.give(segment{remote: peer, ack: f.iss + 1, flags: flagRST | flagACK}, 0)
		b.now += 20 * time.Millisecond
		ack := segment{remote: peer, seq: 7001, ack: f.iss + 1, flags: flagACK, window: 0xff00}
		out := b.give(ack, 0)
		if !crossed {
			if f.state == established || len(out) != 0 || b.counts.Early != 1 {
				t.Errorf("an ACK before any SYN of the peer's: state %d, sent %+v, %+v", f.state, out, b.counts)
			}
			continue
		}
		if f.state != established || len(out) == 0 || out[0].flags != flagACK || out[0].seq != f.iss+1 || out[0].ack != 7001 {
			t.Errorf("state %d, sent %+v", f.state, out)
		}
		b.give(ack, 0)
		if !f.lives(b.now) {
			t.Errorf("it does not live: %+v", f)
		}
	}
}
