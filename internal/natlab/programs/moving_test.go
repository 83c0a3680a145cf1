//go:build linux

package programs_test

import (
	"fmt"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// The kernel tells that the network changes: traffic is back within a second,
// on a direct path.
func TestChangesOfTheNetworkAreFollowedAtOnce(t *testing.T) {
	netns.Require(t)
	for name, c := range map[string]struct {
		move func(h, router *netns.Host)
		anew bool // the path there was leads nowhere
	}{
		"another address": {func(h, _ *netns.Host) {
			h.Renumber(netns.ETH, "192.168.2.77/24")
			h.DefaultRoute("192.168.2.1")
		}, true},
		"another gateway": {func(h, router *netns.Host) {
			router.Address(netns.LAN, "192.168.2.3/24")
			h.IP("route replace default via 192.168.2.3")
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := begin(t)
			stream := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", loadAddr, "-size", "100", "-n", "800", "-interval", "5ms")
			time.Sleep(time.Second) // of a transfer that goes well
			began := time.Now()
			c.move(n.Scene.Laptop, n.LaptopRouter)
			var took time.Duration
			if c.anew {
				netns.Eventually(t, 3*time.Second, "another direct path", func() error {
					p, err := n.Laptop.Peer("home")
					if err == nil && (p.Path != "direct-udp" || p.Since.Before(began)) {
						err = fmt.Errorf("it is %s since %v", p.Path, p.Since)
					}
					took = p.Since.Sub(began)
					return err
				})
			}
			var p programs.Pings
			stream.Result(&p, 15*time.Second)
			t.Logf("data took a new direct path after %v; the longest pause was %.0f ms; %d of %d were answered", took, p.LongestGap, p.Answered, p.Sent)
			if p.LongestGap > 1000 || took > time.Second {
				t.Errorf("traffic stood still for %.0f ms, and the new path took %v, want a second at most: %+v", p.LongestGap, took, p)
			}
			n.Laptop.WaitPath("home", "direct-udp", 5*time.Second)
		})
	}
}
