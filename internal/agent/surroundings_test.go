package agent

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// What the kernel tells is followed at once, and looked for seldom: when it tells
// nothing within half a minute, and when it tells no more within seconds.
func TestChangesOfTheNetwork(t *testing.T) {
	for name, c := range map[string]struct {
		tell         func(told chan struct{})
		least, most  time.Duration
		unsupporting bool
	}{
		"told":            {func(told chan struct{}) { told <- struct{}{} }, 0, 300 * time.Millisecond, false},
		"not told":        {func(chan struct{}) {}, 2500 * time.Millisecond, watchSeldom + time.Second, false},
		"told no more":    {func(told chan struct{}) { close(told) }, 0, watchEvery + 300*time.Millisecond, false},
		"nobody can tell": {func(chan struct{}) {}, 0, watchEvery + 300*time.Millisecond, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				road, _ := w.road(natlab.Home())
				told := make(chan struct{})
				laptop := w.agent(road, "laptop", func(cfg *Config) {
					cfg.Host.Changes = func(context.Context) (<-chan struct{}, error) {
						if c.unsupporting {
							return nil, context.Canceled
						}
						return told, nil
					}
				})
				w.settle()
				time.Sleep(100 * time.Millisecond)
				before := laptop.fingerprint()
				const outside = "198.51.100.200"
				road.MoveTo(w.lab.NAT("train", outside, natlab.Home()), "10.1.1.9")
				c.tell(told)
				took := waitFor(t, "candidates of the new network", time.Minute, func() bool {
					g := laptop.here.Load()
					return g != nil && g.translatedAddr(proto.Transport_TRANSPORT_UDP) == netip.MustParseAddr(outside)
				})
				t.Logf("candidates of the new network after %v", took)
				if took > c.most || took < c.least {
					t.Errorf("candidates of the new network after %v, want %v to %v", took, c.least, c.most)
				}
				time.Sleep(5 * time.Second)
				laptop.nature.mu.Lock()
				defer laptop.nature.mu.Unlock()
				if now := laptop.fingerprint(); laptop.nature.network != now || now == before {
					t.Error("the NAT of the new network was not studied")
				}
			})
		})
	}
}
