package agent

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// asked counts how often a host is asked for its addresses.
type asked struct {
	dgram.Network
	times atomic.Int64
}

func (a *asked) Addrs() ([]dgram.HostAddr, error) {
	a.times.Add(1)
	return a.Network.Addrs()
}

// A host is asked for its addresses twice a minute by the watch of the network
// and by the mapper of ports once, whatever crosses meanwhile, where the kernel
// tells of changes.
func TestAddressesAreLookedUpSeldom(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		listen(t, home, serviceAt, true)
		client := listen(t, road, "127.0.0.1:0", false)
		w.agent(home, "home", exposing(t, "echo", "udp://"+serviceAt))
		var host asked
		dials := dialing(t, "home", "echo", "udp://"+dialAt)
		laptop := w.agent(road, "laptop", func(cfg *Config) {
			dials(cfg)
			host.Network = cfg.Host.Net
			cfg.Host.Net = &host
			cfg.Host.Changes = func(context.Context) (<-chan struct{}, error) { return make(chan struct{}), nil }
		})
		w.settle()
		s := startStream(client, dialAt, 60*time.Millisecond)
		waitFor(t, "direct-udp", 20*time.Second, func() bool { return best(laptop, "home") == "direct-udp" })
		time.Sleep(3 * time.Minute) // the watches of lifetimes are over, or slow
		before := host.times.Load()
		time.Sleep(5 * time.Minute)
		n := host.times.Load() - before
		s.end()
		t.Logf("asked %d times in 5 minutes", n)
		if n > 5*3+2 {
			t.Errorf("asked %d times in 5 minutes", n)
		}
	})
}
