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

// crossings notes where a NAT has let what goes to the coordinator out, by what
// sent it, and how many datagrams that were.
type crossings struct {
	mu   sync.Mutex
	out  map[netip.AddrPort]map[netip.AddrPort]int
	sent int
}

func (c *crossings) note(r natlab.Record) {
	if r.Event != natlab.Translated || r.Place != "cafe" || r.To.Addr() != netip.MustParseAddr(vpsAddr) || !r.NewFrom.IsValid() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.out[r.From] == nil {
		c.out[r.From] = make(map[netip.AddrPort]int)
	}
	c.out[r.From][r.NewFrom]++
	c.sent += r.Count
}

func (c *crossings) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out, c.sent = make(map[netip.AddrPort]map[netip.AddrPort]int), 0
}

// The control connection and relay legs keep their mappings where idle ones live
// for 12 s only, and cost little where they live long.
func TestLegsAndTheLinkAreHeldByWhatWasFound(t *testing.T) {
	for name, c := range map[string]struct {
		lifetime time.Duration
		most     int // datagrams to the coordinator in three minutes
	}{
		"short": {12 * time.Second, 200},
		"long":  {5 * time.Minute, 60},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				home, _, _ := w.home()
				nat := natlab.Home()
				nat.Lifetime, nat.Unreplied, nat.Ports = c.lifetime, 0, natlab.Random(1024, 65535)
				road, _ := w.road(nat)
				relayed := func(cfg *Config) { cfg.Paths = []path.Kind{path.RelayUDP} }
				w.agent(home, "home", relayed)
				laptop := w.agent(road, "laptop", relayed)
				w.settle()
				waitFor(t, "the lifetime", 10*time.Minute, func() bool { return laptop.keepalive() != 15*time.Second })
				if _, err := laptop.Ping(t.Context(), "home"); err != nil {
					t.Fatal(err)
				}
				time.Sleep(30 * time.Second)
				seen := &crossings{}
				seen.reset()
				w.lab.Watch(seen.note)
				time.Sleep(3 * time.Minute)
				seen.mu.Lock()
				defer seen.mu.Unlock()
				t.Logf("%d datagrams to the coordinator, by %v", seen.sent, seen.out)
				if len(seen.out) < 2 || seen.sent > c.most {
					t.Errorf("%d sockets sent %d datagrams to the coordinator; want 2 and %d at most", len(seen.out), seen.sent, c.most)
				}
				for from, at := range seen.out {
					if len(at) != 1 {
						t.Errorf("what %v sends came by %d mappings: %v", from, len(at), at)
					}
				}
			})
		})
	}
}
