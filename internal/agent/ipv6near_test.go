package agent

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// S4-15, S4-19: of a host's addresses those are offered that a peer may reach:
// no link-local, no way of an IPv6 transition, none that is deprecated; unique
// local ones come behind the global ones.
func TestWhichAddressesAreOffered(t *testing.T) {
	t.Parallel()
	host := func(ifc, addr string) dgram.HostAddr {
		return dgram.HostAddr{Interface: ifc, Addr: netip.MustParsePrefix(addr), Up: true}
	}
	deprecated := host("eth0", "2001:db8:1::dead/64")
	deprecated.Deprecated = true
	down := host("eth1", "2001:db8:3::1/64")
	down.Up = false
	list := hostCandidatesOf([]dgram.HostAddr{
		host("lo", "127.0.0.1/8"), host("lo", "::1/128"),
		host("eth0", "fd00:1::2/64"), host("eth0", "fe80::2/64"), host("eth0", "169.254.3.4/16"),
		deprecated, down,
		host("eth0", "2001:db8:1::2/64"), host("eth0", "2001:db8:1:0:a1b2:c3d4:e5f6:1/64"), // the second is a temporary one
		host("eth0", "192.168.1.2/24"),
		host("Teredo Tunneling Pseudo-Interface", "2001::4136:e378:8000:63bf:3fff:fdd2/32"),
		host("eth0", "2001:0:53aa:64c::1/64"), host("sit0", "2001:db8:9::1/64"),
		host("eth0", "2002:c633:6401::1/16"), host("eth0", "64:ff9b::c000:201/96"), host("eth0", "64:ff9b:1::1/48"),
		host("eth0", "::198.51.100.1/96"), host("docker0", "172.17.0.1/16"),
	}, nil, []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:4000"), netip.MustParseAddrPort("[::]:4001")}, proto.Transport_TRANSPORT_UDP)
	var got []string
	for _, c := range list {
		got = append(got, c.addr.String())
	}
	want := []string{"[2001:db8:1::2]:4001", "[2001:db8:1:0:a1b2:c3d4:e5f6:1]:4001", "[fd00:1::2]:4001", "192.168.1.2:4000"}
	if !slices.Equal(got, want) {
		t.Errorf("offered %v,\nwant %v", got, want)
	}
	var g gathered
	g.see([]sighting{{mapped: netip.MustParseAddrPort("[2002:c633:6401::1]:4000")}, {mapped: netip.MustParseAddrPort("[64:ff9b::c633:6401]:4000")},
		{mapped: netip.MustParseAddrPort("[2001:db8:1::2]:4000")}}, proto.Transport_TRANSPORT_UDP)
	if len(g.candidates) != 1 {
		t.Errorf("seen as %v", g.candidates)
	}
}

// sixes is a host with nothing but IPv6 addresses of a firewalled network.
func (w *world) sixes(name string, n int, addrs ...string) *natlab.Host {
	nat := w.lab.NAT(name+"-firewall", fmt.Sprintf("198.51.100.%d", n), natlab.Home(), natlab.Prefix(fmt.Sprintf("2001:db8:%d::/48", n)))
	return nat.Host(name, addrs[0], natlab.Also(addrs[1:]...))
}

// S4-15: both behind firewalls that keep state, with a stable address, temporary
// ones and a unique local one each. A host answers from another of its addresses
// than the one that was asked; the firewalls let only a pair in that both sent
// between.
func TestPunchBetweenHostsOfManyAddresses(t *testing.T) {
	for _, kind := range []path.Kind{path.DirectUDP, path.DirectFakeTCP, path.DirectTCP} {
		t.Run(kind.String(), func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				w := newWorld(t)
				w.at = "[" + vpsSix + "]:443"
				host := func(name string, n int) *running {
					addrs := []string{fmt.Sprintf("2001:db8:%d:0:aaaa::1", n)}
					for i := range 4 {
						addrs = append(addrs, fmt.Sprintf("2001:db8:%d:%d::2", n, i))
					}
					h := w.sixes(name, n, append(addrs, fmt.Sprintf("fd00:%d::2", n), fmt.Sprintf("fe80::%d", n))...)
					return w.agent(h, name, all(everything(h), only(kind, path.RelayUDP)))
				}
				host("home", 1)
				laptop := host("laptop", 2)
				w.settle()
				reach(t, laptop, "home", kind.String(), 3*time.Second)
				if line, err := laptop.Ping(t.Context(), "home"); err != nil || !strings.HasPrefix(line.Remote, "[2001:db8:1:0:aaaa::1]") {
					t.Errorf("%+v, %v", line, err)
				}
			})
		})
	}
}

// S4-15: networks that translate IPv6 too (NAT66), alone and against a firewall.
func TestNAT66(t *testing.T) {
	for name, c := range map[string]struct {
		far, near natlab.Behaviour
	}{
		"both":            {natlab.Home(), natlab.Home()},
		"ports at random": {natlab.Home(), natlab.Carrier()},
		"behind one":      {hairpins(natlab.Home()), natlab.Behaviour{}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.at = "[" + vpsSix + "]:443"
				c.far.NAT66, c.near.NAT66 = true, true
				far := w.lab.NAT("far", "198.51.100.1", c.far, natlab.Also("2001:db8:1::1"))
				near := far
				if name != "behind one" {
					near = w.lab.NAT("near", "198.51.100.129", c.near, natlab.Also("2001:db8:2::1"))
				}
				home := w.agent(far.Host("home", "fd00:1::2"), "home", nil)
				laptop := w.agent(near.Host("laptop", "fd00:1::3"), "laptop", nil)
				w.settle()
				for _, a := range []*running{home, laptop} {
					if list := a.here.Load().candidates; len(list) != 2 || list[0].public() || !list[1].public() {
						t.Errorf("offered are %v", list)
					}
				}
				reach(t, laptop, "home", "direct-udp", 3*time.Second)
				want := "[2001:db8:1::1]:"
				if near == far {
					want = "[fd00:1::2]:"
				}
				if line, err := laptop.Ping(t.Context(), "home"); err != nil || !strings.HasPrefix(line.Remote, want) {
					t.Errorf("%+v, %v", line, err)
				}
			})
		})
	}
}

// IPv4 alone against IPv6 alone: a coordinator that has both relays, and explain
// says why on both sides.
func TestNoCommonFamily(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		road, _ := w.road(natlab.Home())
		laptop := w.agent(road, "laptop", nil)
		six := w.sixes("home", 1, "2001:db8:1::2")
		w.at = "[" + vpsSix + "]:443"
		home := w.agent(six, "home", nil)
		w.settle()
		reach(t, laptop, "home", "relay-udp", 3*time.Second)
		time.Sleep(10 * time.Second)
		for _, side := range []struct {
			a    *running
			peer string
		}{{laptop, "home"}, {home, "laptop"}} {
			said := 0
			for _, at := range explained(t, side.a, side.peer) {
				if at.Path == "direct-udp" && at.Reason == "no-common-family" {
					said++
				} else if at.Path == "direct-udp" {
					t.Errorf("%s: %+v", side.peer, at)
				}
			}
			if said < 2 {
				t.Errorf("said %d times: %+v", said, explained(t, side.a, side.peer))
			}
		}
	})
}
