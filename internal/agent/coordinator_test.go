package agent

import (
	"bytes"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// seenAtVPS is what passes the coordinator's link.
type seenAtVPS struct {
	data   atomic.Int64 // datagrams of sealed data
	before int64        // those of them until the path was settled
	leaked atomic.Int64 // datagrams with the marker in them
	named  atomic.Int64 // datagrams that tell the service's name
}

// tap counts what passes the coordinator, and how much of it shows marker.
func (w *world) tap(marker []byte) *seenAtVPS {
	seen := &seenAtVPS{}
	w.vps.DropWhen(func(_, _ netip.AddrPort, d []byte) bool {
		if proto.KindOf(d) == proto.KindData {
			seen.data.Add(1)
		}
		if bytes.Contains(d, marker) {
			seen.leaked.Add(1)
		}
		if bytes.Contains(d, []byte("secretly-named")) {
			seen.named.Add(1)
		}
		return false
	})
	return seen
}

var marker = bytes.Repeat([]byte("plain words "), 20)

// carry sends n datagrams with the marker to an echo service and back.
func (w *world) carry(t *testing.T, n int, paths []path.Kind) (*seenAtVPS, int, *running) {
	t.Helper()
	home, _, _ := w.home()
	road, _ := w.road(natlab.Home())
	listen(t, home, serviceAt, true)
	w.agent(home, "home", exposing(t, "secretly-named", "udp://"+serviceAt))
	laptop := w.agent(road, "laptop", func(c *Config) {
		dialing(t, "home", "secretly-named", "udp://"+dialAt)(c)
		c.Paths = paths
	})
	w.settle()
	seen := w.tap(marker)
	client := listen(t, road, "127.0.0.1:0", false)
	client.send(dialAt, marker)
	time.Sleep(3 * time.Second) // the path that there is to be, is
	seen.before = seen.data.Load()
	for range n {
		client.send(dialAt, marker)
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(time.Second)
	return seen, len(client.arrivals()) - 1, laptop
}

// The coordinator introduces; where the path is direct it carries nothing.
// S4-06
func TestCoordinatorCarriesNoDataOfADirectPath(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		seen, back, laptop := w.carry(t, 500, nil)
		if at := best(laptop, "home"); at != "direct-udp" || back != 500 {
			t.Fatalf("path %q, %d of 500 came back", at, back)
		}
		if n := seen.data.Load() - seen.before; n != 0 {
			t.Errorf("%d datagrams of data passed the coordinator", n)
		}
	})
}

// What is relayed is sealed: the coordinator sees neither payload nor the
// service's name. S4-07
func TestRelaySeesOnlyCiphertext(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		seen, back, laptop := w.carry(t, 500, []path.Kind{path.RelayUDP})
		if at := best(laptop, "home"); at != "relay-udp" || back != 500 {
			t.Fatalf("path %q, %d of 500 came back", at, back)
		}
		if n := seen.data.Load(); n < 1000 {
			t.Errorf("the tap saw only %d datagrams of data", n)
		}
		if leaked, named := seen.leaked.Load(), seen.named.Load(); leaked > 0 || named > 0 {
			t.Errorf("%d datagrams showed payload, %d the service's name", leaked, named)
		}
	})
}
