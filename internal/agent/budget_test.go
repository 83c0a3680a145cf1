package agent

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
)

// udpAlone leaves what else may be tried out.
func udpAlone(c *Config) { c.Paths = []path.Kind{path.DirectUDP, path.RelayUDP} }

// sprays has an agent behind a home router and one behind random ports, and
// counts which ports of the latter's NAT the former sends to. The latter opens so
// few ports that none is hit by chance.
func sprays(t *testing.T, configure func(*Config)) (far, laptop *running, ports func() int) {
	t.Helper()
	w := newWorld(t)
	host := w.lab.NAT("far", "198.51.100.1", natlab.Home()).Host("home", "10.0.0.2")
	road, _ := w.road(natlab.Cellular())
	far = w.agent(host, "home", func(c *Config) { udpAlone(c); configure(c) })
	laptop = w.agent(road, "laptop", func(c *Config) { udpAlone(c); c.Punch.Budget.PerAttempt = 2 })
	var mu sync.Mutex
	seen := map[uint16]bool{}
	w.settle()
	time.Sleep(5 * time.Second) // both have studied their NAT
	host.Meter(func(to netip.AddrPort, _ int) {
		mu.Lock()
		defer mu.Unlock()
		if to.Addr() == netip.MustParseAddr("198.51.100.129") {
			seen[to.Port()] = true
		}
	})
	return far, laptop, func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(seen)
	}
}

// An operator's lower budget is obeyed to the datagram, and both sides tell why
// there is no path.
func TestLoweredBudgetIsObeyed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		far, laptop, ports := sprays(t, func(c *Config) {
			c.Punch.Budget = punch.Budget{PerSecond: 50, PerTarget: 10, PerAttempt: 100}
		})
		_, _ = far.Ping(t.Context(), "laptop")
		began := time.Now()
		for far.Status().Punch.Cut == 0 && time.Since(began) < time.Minute {
			time.Sleep(time.Second)
		}
		s := far.Status().Punch
		if s.Cut == 0 || s.Sent != 10*s.Cut || s.PerTarget != 10 {
			t.Errorf("status: %+v", s)
		}
		// Beside the shots it has probed the candidates, a port each.
		const candidates = 12
		if n := ports(); n < int(s.Sent) || n > int(s.Sent)+candidates {
			t.Errorf("datagrams went to %d ports with %d shots", n, s.Sent)
		}
		time.Sleep(15 * time.Second)
		cut := func(a Attempt) bool {
			return a.Reason == "budget" && strings.Contains(a.Evidence, "10 datagrams to one address in an attempt (punch.per_target) let 10 of 1500 leave")
		}
		for who, other := range map[*running]string{far: "laptop", laptop: "home"} {
			if !slices.ContainsFunc(explained(t, who, other), cut) {
				t.Errorf("explain towards %s: %+v", other, explained(t, who, other))
			}
		}
	})
}

// Where one side wants no sprays, neither sends any.
func TestNoSpray(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		far, laptop, ports := sprays(t, func(c *Config) { c.Punch.Spray = false })
		_, _ = laptop.Ping(t.Context(), "home")
		time.Sleep(time.Minute)
		for who, other := range map[*running]string{far: "laptop", laptop: "home"} {
			if s := who.Status().Punch; s.Sent != 0 {
				t.Errorf("%+v", s)
			}
			if !slices.ContainsFunc(explained(t, who, other), func(a Attempt) bool { return a.Reason == "no-spray" }) {
				t.Errorf("explain towards %s: %+v", other, explained(t, who, other))
			}
		}
		if n := ports(); n > 30 {
			t.Errorf("datagrams to %d ports", n)
		}
	})
}
