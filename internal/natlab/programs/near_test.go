//go:build linux

package programs_test

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// place puts home and the laptop somewhere in a scene.
type place func(s *netns.Scene) (home, laptop *netns.Host)

// Agents that are near each other, or one of which is open, and IPv6 behind
// firewalls: direct, and soon.
//
// S4-13, S4-15
func TestNearAndOpen(t *testing.T) {
	t.Parallel()
	netns.Require(t)
	random, masquerade := netns.RandomPorts(), netns.Masquerade()
	standard := func(s *netns.Scene) (home, laptop *netns.Host) { return s.Home, s.Laptop }
	const away = "192.0.2.130"
	for name, c := range map[string]struct {
		options netns.Options
		place   place
		remote  string // that the laptop reaches home at
	}{
		"one LAN": {behind(masquerade), func(s *netns.Scene) (home, laptop *netns.Host) {
			all := s.Shared("office", "192.0.2.128/25", away, random, map[string]string{"desk": "192.168.7.2", "sofa": "192.168.7.3"})
			return all["desk"], all["sofa"]
		}, "192.168.7.2:"},
		"a carrier on both sides": {netns.DefaultOptions(), func(s *netns.Scene) (home, laptop *netns.Host) {
			carrier := programs.Exposed(s, "othercarrier", "192.0.2.128/25", away, "vps", "carrier")
			router := s.RouterBehind(carrier, "otherrouter", "100.64.9.2", netns.CarrierGrade(30000, 30999), away)
			return s.Home, s.Behind(router, "other", "192.168.9.2", masquerade, "100.64.9.2")
		}, netns.HomePublic + ":"},
		"random dials public": {behind(random), func(s *netns.Scene) (home, laptop *netns.Host) {
			return programs.Exposed(s, "open", "192.0.2.128/25", away, "vps", "laptoprouter"), s.Laptop
		}, away + ":"},
		"public dials random": {homeAlone(random), func(s *netns.Scene) (home, laptop *netns.Host) {
			return s.Home, programs.Exposed(s, "open", "192.0.2.128/25", away, "vps", "homerouter")
		}, netns.HomePublic + ":"},
		"IPv6 behind firewalls": {sixAlone(random), standard, "[" + netns.HomeIPv6 + "]:"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := netns.Standard(t, c.options)
			homeHost, laptopHost := c.place(s)
			addrs := []string{netns.VPSAddr, netns.VPSOtherAddr}
			if c.options.IPv6 {
				addrs = append(addrs, netns.VPSIPv6)
			}
			coordinator := programs.Serve(t, s.VPS, filepath.Join(s.Dir(), "coordinator"), addrs)
			home := programs.Join(t, homeHost, s.Dir(), "home", coordinator.Invite())
			home.Up("--expose", exposeEcho)
			laptop := programs.Join(t, laptopHost, s.Dir(), "laptop", home.Do("invite"))
			laptop.Up("--dial", dialEcho)
			time.Sleep(time.Second) // agents that have just registered become idle ones
			programs.Sink(homeHost, sinkAddr)
			load := programs.StartLoad(t, laptopHost, "ping", "-to", loadAddr, "-size", "100", "-n", "1000", "-interval", "10ms")
			began := time.Now()
			laptop.WaitPath("home", "direct-udp", 4*time.Second)
			home.WaitPath("laptop", "direct-udp", time.Second)
			t.Logf("direct after %v", time.Since(began).Round(10*time.Millisecond))
			load.Kill()
			if p, err := laptop.Peer("home"); err != nil || !strings.HasPrefix(p.Remote, c.remote) {
				t.Errorf("the laptop's path: %+v, %v", p, err)
			}
		})
	}
}

// homeAlone is the standard network without a carrier, with a NAT at home.
func homeAlone(n netns.NAT) netns.Options {
	o := netns.DefaultOptions()
	o.HomeNAT, o.NoCarrier = n, true
	return o
}

// sixAlone has IPv6 with firewalls, and IPv4 that can't be punched.
func sixAlone(n netns.NAT) netns.Options {
	o := homeAlone(n)
	o.LaptopNAT, o.IPv6 = n, true
	return o
}
