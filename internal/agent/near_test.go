package agent

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/natlab/gateway"
)

// hairpins is b whose inside hosts reach each other by their outside addresses.
func hairpins(b natlab.Behaviour) natlab.Behaviour {
	b.Hairpin = true
	return b
}

// isolated keeps a host from its neighbours, as many access points of guests do:
// it reaches the router alone.
func isolated(h *natlab.Host, lan string) {
	prefix := netip.MustParsePrefix(lan)
	h.DropWhen(func(from, to netip.AddrPort, _ []byte) bool {
		return prefix.Contains(from.Addr()) && prefix.Contains(to.Addr())
	})
}

// Two agents behind the same NAT: by the addresses of their LAN where they
// reach each other there, by the NAT's outside address where it hairpins, else
// by the relay.
func TestNeighbours(t *testing.T) {
	oneLAN := func(outer *natlab.NAT) (home, laptop *natlab.Host) {
		return outer.Host("home", "192.168.1.2"), outer.Host("laptop", "192.168.1.3")
	}
	guests := func(outer *natlab.NAT) (home, laptop *natlab.Host) {
		home, laptop = oneLAN(outer)
		isolated(home, "192.168.1.0/24")
		return home, laptop
	}
	routers := func(b natlab.Behaviour) func(outer *natlab.NAT) (home, laptop *natlab.Host) {
		return func(outer *natlab.NAT) (home, laptop *natlab.Host) {
			return outer.NAT("home-router", "100.64.0.2", b).Host("home", "192.168.1.2"),
				outer.NAT("laptop-router", "100.64.0.3", b).Host("laptop", "192.168.1.2")
		}
	}
	for name, c := range map[string]struct {
		outer  natlab.Behaviour
		place  func(outer *natlab.NAT) (home, laptop *natlab.Host)
		want   string
		remote string // that the laptop reaches home at
		reason string // why the direct path failed
	}{
		"one LAN":                              {natlab.Home(), oneLAN, "direct-udp", "192.168.1.2:", ""},
		"one LAN, ports at random":             {natlab.Cellular(), oneLAN, "direct-udp", "192.168.1.2:", ""},
		"guests, hairpinning":                  {hairpins(natlab.Home()), guests, "direct-udp", "198.51.100.1:", ""},
		"guests, none":                         {natlab.Home(), guests, "relay-udp", "", "no-hairpinning"},
		"own routers, hairpinning":             {hairpins(natlab.Carrier()), routers(natlab.Home()), "direct-udp", "198.51.100.1:", ""},
		"own routers that accept, hairpinning": {hairpins(natlab.Carrier()), routers(natlab.Poisonable()), "direct-udp", "198.51.100.1:", ""},
		"own routers, none":                    {natlab.Carrier(), routers(natlab.Home()), "relay-udp", "", "no-hairpinning"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				outer := w.lab.NAT("outer", "198.51.100.1", c.outer)
				home, laptop := c.place(outer)
				w.agent(home, "home", nil)
				near := w.agent(laptop, "laptop", nil)
				w.settle()
				time.Sleep(5 * time.Second)
				took := reach(t, near, "home", c.want, 3*time.Second)
				line, err := near.Ping(t.Context(), "home")
				if err != nil || !strings.HasPrefix(line.Remote, c.remote) {
					t.Errorf("ping: %+v, %v", line, err)
				}
				t.Logf("%s after %v at %s", c.want, took, line.Remote)
				time.Sleep(20 * time.Second)
				if line, err := near.Ping(t.Context(), "home"); err != nil || line.Path != c.want || c.remote != "" && !strings.HasPrefix(line.Remote, c.remote) {
					t.Errorf("later: %+v, %v", line, err)
				}
				for _, a := range explained(t, near, "home") {
					if a.Path == "direct-udp" {
						if c.reason != "" && (a.Result != ResultFailed || a.Reason != c.reason) {
							t.Errorf("the %s side says %+v", a.Side, a)
						}
					}
				}
			})
		})
	}
}

// Behind one carrier without hairpinning, the addresses that home routers have
// in the carrier's network do where a router maps a port there; one is enough.
//
// S4-14
func TestNeighboursBehindACarrierByTheirRouters(t *testing.T) {
	for name, both := range map[string]bool{"one router maps": false, "both routers map": true} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				carrier := w.lab.NAT("carrier", "198.51.100.1", natlab.Carrier())
				place := func(who, at string, maps bool) *running {
					router := carrier.NAT(who+"-router", at, natlab.Home())
					if maps {
						gateway.Run(t, router.Host(who+"-gateway", "192.168.1.1"), router, gateway.Options{UPnP: true, PCP: true})
					}
					return w.agent(router.Host(who, "192.168.1.2"), who, behind("192.168.1.1"))
				}
				place("home", "100.64.0.2", true)
				laptop := place("laptop", "100.64.0.3", both)
				w.settle()
				reach(t, laptop, "home", "direct-udp", 3*time.Second)
				if line, err := laptop.Ping(t.Context(), "home"); err != nil || !strings.HasPrefix(line.Remote, "100.64.0.2:") {
					t.Errorf("%+v, %v", line, err)
				}
			})
		})
	}
}
