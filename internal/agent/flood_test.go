package agent

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// eavesdropper keeps copies of what crosses a NAT's link to an address.
type eavesdropper struct {
	mu   sync.Mutex
	list [][]byte
}

func (e *eavesdropper) on(n *natlab.NAT, to string) {
	n.DropWhen(func(_, dst netip.AddrPort, d []byte) bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		if dst.Addr().String() == to && len(e.list) < 2000 {
			e.list = append(e.list, bytes.Clone(d))
		}
		return false
	})
}

func (e *eavesdropper) all() [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([][]byte{}, e.list...)
}

func TestGarbageAndReplaysAreCountedAndNothingElse(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, carrier := w.home()
		// No NAT protects the laptop.
		road := w.lab.Host("laptop", "203.0.113.50")
		var ear eavesdropper
		ear.on(carrier, "203.0.113.50")
		service := listen(t, home, serviceAt, true)
		client := listen(t, road, "127.0.0.1:0", false)
		w.agent(home, "home", exposing(t, "echo", "udp://"+serviceAt))
		laptop := w.agent(road, "laptop", dialing(t, "home", "echo", "udp://"+dialAt))
		w.settle()
		s := startStream(client, dialAt, 20*time.Millisecond)
		waitFor(t, "direct-udp", 5*time.Second, func() bool { return best(laptop, "home") == "direct-udp" })
		time.Sleep(5 * time.Second)
		before := sizes(laptop)
		session := laptop.peer("home").association()

		hostile := w.lab.Host("hostile", "203.0.113.66")
		reflected := sentBy(w.lab, "laptop", netip.MustParseAddr("203.0.113.66"))
		var targets []netip.AddrPort
		for _, e := range laptop.mains {
			targets = append(targets, netip.AddrPortFrom(netip.MustParseAddr("203.0.113.50"), e.conn.LocalAddr().Port()))
		}
		session.mu.Lock()
		for _, e := range session.sockets.all {
			targets = append(targets, netip.AddrPortFrom(netip.MustParseAddr("203.0.113.50"), e.conn.LocalAddr().Port()))
		}
		session.mu.Unlock()
		random := rand.New(rand.NewPCG(3, 4))
		heard := ear.all()
		since := time.Now()
		for range 40 { // each socket is another stranger
			conn, err := hostile.ListenUDP(netip.MustParseAddrPort("0.0.0.0:0"))
			if err != nil {
				t.Fatal(err)
			}
			for range 100 {
				d := make([]byte, random.IntN(1400))
				for i := range d {
					d[i] = byte(random.Uint32())
				}
				switch random.IntN(5) {
				case 0, 1:
					d = bytes.Clone(heard[random.IntN(len(heard))])
				case 2: // changed, or cut off
					if d = bytes.Clone(heard[random.IntN(len(heard))]); len(d) > 0 {
						d[random.IntN(len(d))] ^= 0x10
						d = d[:random.IntN(len(d)+1)]
					}
				case 3:
					if len(d) > 0 {
						d[0] = []byte{0x81, 0x82, 0x83, 0x84, 0x85, 0xa0, 0xc0, 0x00}[random.IntN(8)]
					}
				}
				if err := conn.Write(dgram.One(targets[random.IntN(len(targets))], d)); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(10 * time.Millisecond)
			_ = conn.Close()
		}
		time.Sleep(5 * time.Second)
		if g := gap(client, since, time.Now()); g > 100*time.Millisecond {
			t.Errorf("no answer for %v under the flood", g)
		}
		if laptop.peer("home").association() != session || best(laptop, "home") != "direct-udp" {
			t.Errorf("the session was replaced or has moved: %s", pathsText(laptop, "home"))
		}
		if !laptop.Status().Coordinator.Connected {
			t.Error("the coordinator was lost")
		}
		notGrown(t, "laptop", before, sizes(laptop))
		if n := reflected(); n > 0 {
			t.Errorf("%d datagrams were sent to the attacker", n)
		}
		counters := laptop.Status().Counters
		for _, reason := range []string{"stranger", "malformed", "stale-session", "replayed"} {
			if counters[reason] == 0 {
				t.Errorf("%q was not counted: %v", reason, counters)
			}
		}
		s.end()
		time.Sleep(time.Second)
		for _, a := range append(service.arrivals(), client.arrivals()...) {
			if len(a.data) != 100 || strings.HasPrefix(a.from.String(), "203.") {
				t.Fatalf("%d bytes from %v were delivered", len(a.data), a.from)
			}
		}
		if there, back := len(service.arrivals()), len(client.arrivals()); uint64(there) != s.sent.Load() || back != there {
			t.Errorf("%d sent, %d at the service, %d came back", s.sent.Load(), there, back)
		}
	})
}
