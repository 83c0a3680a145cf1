package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/natlab/gateway"
	"rendezvous/internal/portmap"
	"rendezvous/proto"
)

// behind has an agent ask the routers at these addresses for ports.
func behind(gateways ...string) func(*Config) {
	return func(c *Config) {
		c.Host.Gateways = func() (list []portmap.Gateway, err error) {
			for _, g := range gateways {
				list = append(list, portmap.Gateway{Addr: netip.MustParseAddr(g)})
			}
			return list, nil
		}
	}
}

// randomHome is a home whose router gives each destination another, random
// port, and which has a port mapping service at 192.168.1.1.
func (w *world) randomHome(o gateway.Options) (*natlab.Host, *gateway.Gateway, *natlab.NAT) {
	router := w.lab.NAT("router", "198.51.100.1", natlab.Cellular(), natlab.Prefix("2001:db8:1::/64"))
	gw := gateway.Run(w.t, router.Host("gateway", "192.168.1.1", natlab.Also("2001:db8:1::1")), router, o)
	return router.Host("home", "192.168.1.2", natlab.Also("2001:db8:1::2")), gw, router
}

// mappedOf are the candidates that an agent offers as mapped.
func mappedOf(a *running) (list []candidate) {
	for _, c := range a.here.Load().candidates {
		if c.kind == proto.CandidateType_CANDIDATE_MAPPED {
			list = append(list, c)
		}
	}
	return list
}

// Between two NATs with random ports nothing can be punched, and a mapped port
// makes it direct at the first try. It is gone when the agent stops.
// S4-14
func TestAMappedPortJoinsWhatCanNotBePunched(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]gateway.Options{"pcp": {PCP: true}, "nat-pmp": {NATPMP: true}, "upnp": {UPnP: true},
		"upnp, for ever": {UPnP: true, OnlyPermanent: true}, "all": {PCP: true, NATPMP: true, UPnP: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				host, gw, _ := w.randomHome(o)
				road, _ := w.road(natlab.Cellular())
				home := w.agent(host, "home", behind("192.168.1.1"))
				laptop := w.agent(road, "laptop", nil)
				w.settle()
				mapped := mappedOf(home)
				if len(mapped) != 1 || home.here.Load().candidates[0] != mapped[0] || mapped[0].addr.Addr() != netip.MustParseAddr("198.51.100.1") {
					t.Fatalf("home offers %v", home.here.Load().candidates)
				}
				if took := reach(t, laptop, "home", "direct-udp", 5*time.Second); took > time.Second {
					t.Errorf("it took %v", took)
				}
				if line, err := laptop.Ping(t.Context(), "home"); err != nil || line.Remote != mapped[0].addr.String() {
					t.Errorf("the laptop reaches %+v, %v; home is mapped at %v", line, err, mapped)
				}
				tries := slices.DeleteFunc(explained(t, laptop, "home"), func(a Attempt) bool { return a.Side != SideLocal || a.Path != "direct-udp" })
				if len(tries) != 1 || tries[0].Result != ResultOK {
					t.Errorf("tries %+v", tries)
				}
				if routers := home.Status().Routers; len(routers) != 1 || len(routers[0].Mappings) != 1 || routers[0].Mappings[0].External != mapped[0].addr.String() {
					t.Errorf("status tells of %+v", routers)
				}
				if left := home.cfg.State.read().Mappings; (len(left) == 1) != o.OnlyPermanent {
					t.Errorf("the next run would take back %+v", left)
				}
				time.Sleep(2 * time.Hour)
				reach(t, laptop, "home", "direct-udp", time.Second)
				home.stop()
				if left := home.cfg.State.read().Mappings; len(left) != 0 {
					t.Errorf("after the end the next run would take back %+v", left)
				}
				if held := gw.Held(); len(held) != 0 {
					t.Errorf("after the end the router still has %v", held)
				}
			})
		})
	}
}

// S4-14: the off switch.
func TestPortMappingTurnedOff(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		host, gw, _ := w.randomHome(gateway.Options{PCP: true, NATPMP: true, UPnP: true})
		road, _ := w.road(natlab.Cellular())
		w.agent(host, "home", func(c *Config) {
			behind("192.168.1.1")(c)
			c.Portmap = false
		})
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		reach(t, laptop, "home", "relay-udp", 5*time.Second)
		if asked := gw.Asked(); len(asked) != 0 {
			t.Errorf("the router was asked %v", asked)
		}
	})
}

// The same where it is the laptop's router that maps, and home's NAT that
// nothing passes.
func TestAMappedPortOfTheDialer(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		host, _, _ := w.randomHome(gateway.Options{NATPMP: true})
		road, _ := w.road(natlab.Cellular())
		w.agent(road, "home", nil)
		laptop := w.agent(host, "laptop", behind("192.168.1.1"))
		w.settle()
		reach(t, laptop, "home", "direct-udp", time.Second)
	})
}

// A router behind a carrier's NAT maps a port that nobody outside can reach:
// it is not offered as one that can, and only who is behind the same carrier
// tries it.
func TestAMappedPortBehindACarrier(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		carrier := w.lab.NAT("carrier", "198.51.100.1", natlab.Cellular())
		router := carrier.NAT("router", "100.64.0.2", natlab.Cellular())
		gateway.Run(t, router.Host("gateway", "192.168.1.1"), router, gateway.Options{PCP: true})
		neighbour := carrier.NAT("neighbour's router", "100.64.0.3", natlab.Cellular()).Host("neighbour", "192.168.1.2")
		home := w.agent(router.Host("home", "192.168.1.2"), "home", behind("192.168.1.1"))
		next := w.agent(neighbour, "next", nil)
		road, cafe := w.road(natlab.Cellular())
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		list := home.here.Load().candidates
		if mapped := mappedOf(home); len(mapped) != 1 || mapped[0].public() || list[len(list)-1] != mapped[0] {
			t.Errorf("home offers %v", list)
		}
		sent := 0
		cafe.DropWhen(func(_, to netip.AddrPort, _ []byte) bool {
			if to.Addr() == netip.MustParseAddr("100.64.0.2") {
				sent++
			}
			return false
		})
		reach(t, laptop, "home", "relay-udp", 5*time.Second)
		reach(t, next, "home", "direct-udp", 2*time.Second)
		time.Sleep(10 * time.Second)
		if sent != 0 {
			t.Errorf("a laptop elsewhere sent %d datagrams to an address of the carrier's network", sent)
		}
	})
}

// A router that claims somebody else's address does not make peers send there.
func TestAMappedPortAtAStrangersAddress(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		victim := w.lab.Host("victim", "203.0.113.5")
		host, _, _ := w.randomHome(gateway.Options{PCP: true, External: victim.Addr()})
		road, _ := w.road(natlab.Cellular())
		home := w.agent(host, "home", behind("192.168.1.1"))
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		reach(t, laptop, "home", "relay-udp", 5*time.Second)
		time.Sleep(10 * time.Second)
		if mapped := mappedOf(home); len(mapped) != 0 || w.lab.SentTo(victim.Addr()) != 0 {
			t.Errorf("home offers %v; the victim got %d datagrams", mapped, w.lab.SentTo(victim.Addr()))
		}
	})
}

// S4-15: the firewall of IPv6 has a pinhole, so that home need not speak first;
// the laptop is where IPv4 leads nowhere.
func TestPinholeForTheMainSocket(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		host, gw, router := w.randomHome(gateway.Options{PCP: true})
		home := w.agent(host, "home", behind("192.168.1.1", "2001:db8:1::1"))
		w.at = "[" + vpsSix + "]:443"
		laptop := w.agent(w.lab.Host("laptop", "2001:db8:f::2"), "laptop", nil)
		w.settle()
		held := gw.Held()
		six := slices.DeleteFunc(slices.Clone(home.mains), func(e *endpoint) bool { return e.is4() })
		at := netip.AddrPortFrom(netip.MustParseAddr("2001:db8:1::2"), six[0].conn.LocalAddr().Port())
		if len(held) != 2 || held[at] != at.Port() {
			t.Errorf("the router has %v", held)
		}
		if mapped := mappedOf(home); len(mapped) != 1 || !mapped[0].addr.Addr().Is4() {
			t.Errorf("home offers %v as mapped: a pinhole is the host's own address", mapped)
		}
		toLaptop := 0
		router.DropWhen(func(_, to netip.AddrPort, _ []byte) bool {
			if to.Addr() == netip.MustParseAddr("2001:db8:f::2") {
				toLaptop++
				return toLaptop <= 3 // what home sends first, and would open the firewall
			}
			return false
		})
		reach(t, laptop, "home", "direct-udp", 2*time.Second)
		home.stop()
		if held := gw.Held(); len(held) != 0 {
			t.Errorf("after the end the router still has %v", held)
		}
	})
}

// A restart of the router is over once the agent has noticed that its
// connection broke.
func TestARouterThatRestartsMapsAgain(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		host, gw, router := w.randomHome(gateway.Options{PCP: true})
		road, _ := w.road(natlab.Cellular())
		w.agent(host, "home", behind("192.168.1.1"))
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		reach(t, laptop, "home", "direct-udp", time.Second)
		router.Unplug()
		gw.Restart()
		router.Flush()
		time.Sleep(time.Minute)
		router.Plug()
		time.Sleep(30 * time.Second)
		if held := gw.Held(); len(held) == 0 {
			t.Error("half a minute after its restart the router has no mapping of ours")
		}
		reach(t, laptop, "home", "direct-udp", 10*time.Second)
	})
}
