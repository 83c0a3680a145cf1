//go:build linux

package programs_test

import (
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// only443 is a laptop whose network lets nothing but TCP to port 443 pass, and a
// home behind one router that keeps ports, as most do.
func only443() programs.Situation {
	o := netns.DefaultOptions()
	o.LaptopNAT = netns.Masquerade().OnlyHTTPS()
	o.HomeNAT, o.NoCarrier = netns.Masquerade(), true
	return programs.Situation{Options: o}
}

// Home opens from its own port 443, which is 443 outside: the laptop's SYN may
// leave for it, and home's passes as the answer.
func TestOnlyPort443Passes(t *testing.T) {
	t.Parallel()
	both(t, only443())
}

// UDP does not pass at home, and the laptop's NAT gives each TCP connection the
// next port: home's SYNs to the ports to come let the laptop's in.
// S4-12
func TestTCPPortsAreForeseen(t *testing.T) {
	t.Parallel()
	o := netns.DefaultOptions()
	o.LaptopNAT = netns.SequentialPorts(1)
	o.HomeNAT, o.NoCarrier = netns.Masquerade().DropUDP(), true
	both(t, programs.Situation{Options: o})
}

// both has two agents meet with all privileges, and with that for port 443 alone.
func both(t *testing.T, x programs.Situation) {
	for kind, arrange := range map[string]func(*netns.Scene) (home, laptop netns.Guise){
		"direct-faketcp": nil,
		"direct-tcp": func(s *netns.Scene) (home, laptop netns.Guise) {
			s.Home.Run("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=443")
			return netns.Guise{Unprivileged: true}, netns.Guise{Unprivileged: true}
		},
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			x := x
			x.Arrange = arrange
			n := x.Start(t, exposeEcho, dialEcho)
			n.Laptop.WaitConnected(10 * time.Second)
			programs.Sink(n.Scene.Home, sinkAddr)
			load := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", loadAddr, "-size", "100", "-n", "3000", "-interval", "10ms")
			began := time.Now()
			n.Laptop.WaitPath("home", kind, 12*time.Second)
			n.Home.WaitPath("laptop", kind, time.Second)
			t.Logf("%s after %v", kind, time.Since(began).Round(10*time.Millisecond))
			load.Kill()
		})
	}
}
