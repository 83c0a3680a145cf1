//go:build linux

package programs_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// Where answers from the ports that the coordinator listens on are lost, a striped
// one wins.
// The coordinator's host shows that flow at another source port, since the main
// port's has its own; the peer is told the one that the laptop's router uses.
func TestMappingAfterAStripedPortWon(t *testing.T) {
	o := netns.DefaultOptions()
	o.LaptopNAT = netns.Masquerade().Filter(fmt.Sprintf(`iifname "$WAN" ip saddr %s udp sport { 443, 3478 } drop`, netns.VPSAddr), `meta l4proto tcp drop`)
	s := stripe(t, o, "apply: true")
	s.waitTable(t, true)
	home := programs.Join(t, s.Home, s.Dir(), "home", s.Invite())
	home.Up("--expose", exposeEcho)
	laptop := programs.Join(t, s.Laptop, s.Dir(), "laptop", home.Do("invite"))
	laptop.Up("--dial", dialEcho)
	own := mainPort(t, laptop, s.Laptop)
	seen := strings.Join(strings.Fields(s.Do("status")), " ")
	if strings.Contains(seen, fmt.Sprintf("%s:%d ", netns.LaptopPublic, own)) {
		t.Errorf("the coordinator sees the laptop at its own port %d: the test tests nothing", own)
	}
	time.Sleep(time.Second) // until STUN has answered, as far as it does
	wire := programs.Listen(t, s.Scene, s.HomeRouter, netns.WAN, "udp and dst host "+netns.LaptopPublic)
	programs.Sink(s.Home, sinkAddr)
	load := programs.StartLoad(t, s.Laptop, "ping", "-to", loadAddr, "-size", "100", "-n", "2000", "-interval", "10ms")
	laptop.WaitPath("home", "direct-udp", 5*time.Second)
	load.Kill()
	wire.Close()
	if n := wire.Count(fmt.Sprintf("udp.dstport != %d", own)); n > 0 || wire.Count(fmt.Sprintf("udp.dstport == %d", own)) == 0 {
		t.Errorf("%d datagrams went to other ports than the laptop's %d:\n%.1000s", n, own, wire.Show(fmt.Sprintf("udp.dstport != %d", own)))
	}
}

// mainPort is the port of an agent's main socket over IPv4: the first that it
// opened, for those that look for a mapping's lifetime come later.
func mainPort(t *testing.T, a *programs.Agent, h *netns.Host) (port int) {
	t.Helper()
	first := math.MaxInt
	for line := range strings.Lines(h.Run("ss", "-H", "-u", "-n", "-a", "-p")) {
		f := strings.Fields(line)
		_, users, found := strings.Cut(line, fmt.Sprintf("pid=%d,fd=", a.PID()))
		var fd, at int
		if len(f) < 5 || !found {
			continue
		}
		_, noFD := fmt.Sscanf(users, "%d", &fd)
		_, noPort := fmt.Sscanf(f[3], "0.0.0.0:%d", &at)
		if noFD == nil && noPort == nil && fd < first {
			first, port = fd, at
		}
	}
	if port == 0 {
		t.Fatal("the laptop's agent has no socket over IPv4")
	}
	return port
}
