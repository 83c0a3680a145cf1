package faketcp

import (
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/path"
)

// S4-04: a router that answers every SYN with RST draws a bounded number of
// them, and ever fewer a second, whatever the number of its ports; and so do many
// routers together.
func TestResetsDrawFewSYNs(t *testing.T) {
	const opens, usual = 32, 32 * (15 + 27 + 14) // usual: what so many handshakes send without any answer
	t.Run("one address", func(t *testing.T) {
		sent, x := resetting(t, opens, func(n int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 2000+uint16(n))
		})
		all, last := 0, 0
		for second, n := range sent {
			all, last = all+n, n
			if second > 0 && n > 125 {
				t.Errorf("%d SYNs in second %d", n, second)
			}
		}
		if most := path.RefusalsAtOnce + 250; all > most || all < path.RefusalsAtOnce || last > 20 {
			t.Errorf("%d SYNs in 10 s, the last second %d, to a router that answers each by RST; at most %d are meant: %v", all, last, most, sent)
		}
		if x.counts.HeldBack == 0 {
			t.Error("none was held back, or that is not counted")
		}
	})
	t.Run("many addresses", func(t *testing.T) {
		sent, x := resetting(t, opens, func(n int) netip.AddrPort {
			return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(n)}), 2000)
		})
		all := 0
		for _, n := range sent {
			all += n
		}
		if most := mostAgain + 10*125 + usual; all > most || all < mostAgain {
			t.Errorf("%d SYNs in 10 s; at most %d are meant", all, most)
		}
		if x.counts.Limited == 0 {
			t.Error("none was limited, or that is not counted")
		}
	})
}

// resetting opens flows, each SYN of which a RST answers, for 10 s: how many
// left in each second.
func resetting(t *testing.T, n int, to func(int) netip.AddrPort) (sent [10]int, x *table) {
	t.Helper()
	x = newTable(Options{}, 40000)
	var flows []*flow
	for i := range n {
		f, err := x.opening(time.Second, to(i), 0)
		if err != nil {
			t.Fatal(err)
		}
		f.hs.waiters++
		flows = append(flows, f)
	}
	for now := time.Second; now < 11*time.Second; now += time.Millisecond {
		for _, f := range flows {
			before := f.hs.sent
			x.handshake(now, f)
			if x.out = x.out[:0]; f.hs.sent > before {
				sent[now/time.Second-1]++
				x.receive(now, &segment{remote: f.remote, flags: flagRST | flagACK}, 0, 1)
			}
		}
	}
	return sent, x
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
