package agent

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// l2tp is the port of a service whose protocol is blocked by its port (RFC 2661
// section 8.1).
const l2tp = 1701

// Shows S0-18: boxes in front of both sides drop UDP from and to L2TP's port,
// and clients reach the service all the same, directly and over the relay, for
// on the way the datagrams have other ports than at both ends.
func TestServiceOnABlockedPortIsReached(t *testing.T) {
	t.Parallel()
	for name, paths := range map[string][]path.Kind{"direct-udp": nil, "relay-udp": {path.RelayUDP}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				home, router, _ := w.home()
				road, cafe := w.road(natlab.Home())
				var mu sync.Mutex
				seen := make(map[uint16]bool)
				blocks := func(from, to netip.AddrPort, _ []byte) bool {
					mu.Lock()
					defer mu.Unlock()
					seen[from.Port()], seen[to.Port()] = true, true
					return from.Port() == l2tp || to.Port() == l2tp
				}
				router.DropWhen(blocks)
				cafe.DropWhen(blocks)
				const at = "127.0.0.1:1701"
				service := listen(t, home, at, true)
				w.agent(home, "home", exposing(t, "l2tp", "udp://"+at))
				laptop := w.agent(road, "laptop", func(c *Config) {
					dialing(t, "home", "l2tp", "udp://"+at)(c)
					c.Paths = paths
				})
				w.settle()

				// Without us: a datagram to the port, and one from it.
				bare := listen(t, w.lab.Host("bare", "203.0.113.77"), "203.0.113.77:1701", true)
				other := listen(t, w.lab.Host("other", "203.0.113.78"), "203.0.113.78:9000", true)
				listen(t, road, "192.168.2.2:9000", false).send("203.0.113.77:1701", []byte("to 1701"))
				listen(t, road, "192.168.2.2:1701", false).send("203.0.113.78:9000", []byte("from 1701"))

				client := listen(t, road, "127.0.0.1:0", false)
				for i := range uint64(100) {
					client.send(at, stamped(i, 200))
					time.Sleep(50 * time.Millisecond)
				}
				time.Sleep(time.Second)
				if n := len(bare.arrivals()) + len(other.arrivals()); n != 0 {
					t.Errorf("the boxes let %d datagrams of the port pass", n)
				}
				if got := best(laptop, "home"); got != name {
					t.Errorf("the path is %q", got)
				}
				if there, back := len(service.arrivals()), len(client.arrivals()); there != 100 || back != 100 {
					t.Errorf("%d of 100 came to the service, %d back", there, back)
				}
				mu.Lock()
				defer mu.Unlock()
				if len(seen) < 3 {
					t.Errorf("the boxes saw the ports %v alone", seen)
				}
			})
		})
	}
}
