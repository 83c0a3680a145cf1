package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// S4-15: firewalls that keep state are punched over IPv6 with the same code.
func TestIPv6(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		homeAddrs, roadAddrs []string
		road                 natlab.Behaviour
		v6                   bool // the path must be over IPv6
	}{
		"both have both":               {[]string{"192.168.1.2", "2001:db8:1::2"}, []string{"192.168.2.2", "2001:db8:2::2"}, natlab.Home(), false},
		"IPv4 can't be punched":        {[]string{"192.168.1.2", "2001:db8:1::2"}, []string{"192.168.2.2", "2001:db8:2::2"}, natlab.Cellular(), true},
		"both have IPv6 alone":         {[]string{"2001:db8:1::2"}, []string{"2001:db8:2::2"}, natlab.Home(), true},
		"one has both, the other IPv6": {[]string{"192.168.1.2", "2001:db8:1::2"}, []string{"2001:db8:2::2"}, natlab.Home(), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				router := w.lab.NAT("router", "198.51.100.1", natlab.Home(), natlab.Prefix("2001:db8:1::/64"))
				cafe := w.lab.NAT("cafe", "198.51.100.129", c.road, natlab.Prefix("2001:db8:2::/64"))
				home := router.Host("home", c.homeAddrs[0], natlab.Also(c.homeAddrs[1:]...))
				road := cafe.Host("laptop", c.roadAddrs[0], natlab.Also(c.roadAddrs[1:]...))
				service := listen(t, home, "127.0.0.1:51820", true)
				client := listen(t, road, "127.0.0.1:0", false)
				if len(c.homeAddrs) == 1 {
					w.at = "[" + vpsSix + "]:443"
				}
				w.agent(home, "home", exposing(t, "echo", "udp://"+serviceAt))
				if len(c.roadAddrs) == 1 {
					w.at = "[" + vpsSix + "]:443"
				}
				laptop := w.agent(road, "laptop", dialing(t, "home", "echo", "udp://"+dialAt))
				w.settle()
				client.send(dialAt, []byte("hello"))
				waitFor(t, "direct-udp, not "+pathsText(laptop, "home"), 5*time.Second, func() bool { return best(laptop, "home") == "direct-udp" })
				time.Sleep(time.Second)
				if len(service.arrivals()) != 1 || len(client.arrivals()) != 1 {
					t.Errorf("%d datagrams at the service, %d at the client", len(service.arrivals()), len(client.arrivals()))
				}
				line, err := laptop.Ping(t.Context(), "home")
				if err != nil {
					t.Fatal(err)
				}
				remote, err := netip.ParseAddrPort(line.Remote)
				if err != nil || c.v6 && !remote.Addr().Is6() {
					t.Errorf("the path goes to %s (%v)", line.Remote, err)
				}
				if mtu := laptop.Status().Peers[0].ServiceMTU; mtu < 1400 {
					t.Errorf("datagrams of %d bytes cross whole", mtu)
				}
				if strings.Contains(name, "alone") {
					router.Flush()
					cafe.Flush()
					time.Sleep(10 * time.Second)
					client.send(dialAt, []byte("again"))
					time.Sleep(2 * time.Second)
					if len(client.arrivals()) != 2 {
						t.Error("no answer after the firewalls forgot")
					}
				}
			})
		})
	}
}

func TestABrokenFamilyCostsAMoment(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		cafe := w.lab.NAT("cafe", "198.51.100.129", natlab.Home(), natlab.Prefix("2001:db8:2::/64"))
		road := cafe.Host("laptop", "192.168.2.2", natlab.Also("2001:db8:2::2"))
		cafe.Block(func(_, to netip.AddrPort, _ []byte) bool { return to.Addr().Is6() })
		// The link names the coordinator by IPv6; it was seen over IPv4 before.
		w.at = "[" + vpsSix + "]:443"
		state := w.enrol("laptop")
		if err := state.SawCoordinator(netip.MustParseAddrPort(vpsAddr+":443"), nil); err != nil {
			t.Fatal(err)
		}
		laptop := w.run(road, state, nil)
		took := waitFor(t, "registered", 10*time.Second, func() bool { return laptop.Status().Coordinator.Connected })
		t.Logf("registered after %v", took)
		if took > time.Second {
			t.Errorf("registered after %v", took)
		}
		// And the same when the connection was lost.
		w.stop()
		time.Sleep(time.Second)
		w.start()
		waitFor(t, "registered again", 5*time.Second, func() bool { return laptop.Status().Coordinator.Connected })
	})
}
