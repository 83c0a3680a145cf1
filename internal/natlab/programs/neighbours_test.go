//go:build linux

package programs_test

import (
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// neighbours are two routers on one link which take what comes to them unasked
// for their own, as those do that only masquerade.
func neighbours() programs.Situation {
	nat := netns.Masquerade().AcceptingInput()
	return programs.Situation{Options: netns.Options{
		HomeNAT: nat, LaptopNAT: nat, NoCarrier: true, OneLink: true,
		VPSHome: 10 * time.Millisecond, VPSLaptop: 15 * time.Millisecond, HomeLaptop: 200 * time.Microsecond,
	}}
}

// The first prime of either side reaches the other's router, whose connection
// tracking then has the 5-tuple: what its own host sends leaves by another port.
// Those of the punch from new ports are dropped by the second router on their
// way, so that both NATs are open when the probes come.
func TestNeighboursMeet(t *testing.T) {
	n := neighbours().Start(t, exposeEcho, dialEcho)
	programs.Sink(n.Scene.Home, sinkAddr)
	load := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", loadAddr, "-size", "100", "-n", "3000", "-interval", "10ms")
	began := time.Now()
	n.Laptop.WaitPath("home", "direct-udp", 4*time.Second)
	n.Home.WaitPath("laptop", "direct-udp", time.Second)
	t.Logf("direct-udp after %v", time.Since(began).Round(10*time.Millisecond))
	load.Kill()
	// The first punch shows that the routers are what they are said to be.
	if out := n.HomeRouter.Run("conntrack", "-L", "-p", "udp") + n.LaptopRouter.Run("conntrack", "-L", "-p", "udp"); !poisoned(out) {
		t.Errorf("no router took a probe for its own: the test tests nothing\n%s", out)
	}
}

// poisoned says whether connection tracking has what one router sent to the
// other, and no host behind that.
func poisoned(entries string) bool {
	for line := range strings.Lines(entries) {
		for _, way := range [][2]string{{netns.HomePublic, netns.LaptopPublic}, {netns.LaptopPublic, netns.HomePublic}} {
			if strings.Contains(line, " src="+way[0]+" dst="+way[1]+" ") && strings.Contains(line, "UNREPLIED") && !strings.Contains(line, "src=192.168.") {
				return true
			}
		}
	}
	return false
}
