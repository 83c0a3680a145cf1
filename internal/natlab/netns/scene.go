//go:build linux

package netns

import (
	"fmt"
	"net/netip"
	"time"

	"rendezvous/internal/natlab/hop"
)

// Addresses of the standard scene, out of RFC 5737's blocks for documentation
// and RFC 6598's for carriers.
const (
	VPSAddr      = "203.0.113.10"
	VPSOtherAddr = "203.0.113.11"
	HomeAddr     = "192.168.1.2"
	HomeWAN      = "100.64.0.2"     // of the home's router, in its carrier's network
	HomePublic   = "198.51.100.1"   // of the carrier
	LaptopAddr   = "192.168.2.2"    //
	LaptopPublic = "198.51.100.129" // of the laptop's router
)

// Names of interfaces, the same on all routers and hosts.
const (
	WAN = "wan0" // of routers and of hosts with a public address
	LAN = "lan0" // of routers
	ETH = "eth0" // of hosts behind a router
)

// Options of the standard scene. The zero value is what DefaultOptions gives
// but without delay.
type Options struct {
	HomeNAT, CarrierNAT, LaptopNAT NAT
	NoCarrier                      bool // the home's router has the public address itself
	// Delays are one way. Where all are zero and Wire is set, the public side
	// is veth pairs and a kernel router: fast, with neither delay nor loss.
	VPSHome, VPSLaptop, HomeLaptop time.Duration
	Wire                           bool
	Loss                           float64 // on each way, 0 to 1
	Hops                           int     // routers on each way; 0 is 6
	OneLink                        bool    // the public side is one link: no router is on any way
	IPv6                           bool    // everybody has it, without NAT; see HomeIPv6
}

// DefaultOptions are plain masquerading routers, a carrier with a block of
// ports, and 20 ms one way between each two of the three places.
func DefaultOptions() Options {
	return Options{VPSHome: 20 * time.Millisecond, VPSLaptop: 20 * time.Millisecond, HomeLaptop: 20 * time.Millisecond}
}

func (o *Options) fill() {
	if o.HomeNAT.post == nil {
		o.HomeNAT = Masquerade()
	}
	if o.CarrierNAT.post == nil {
		o.CarrierNAT = CarrierGrade(20000, 20999)
	}
	if o.LaptopNAT.post == nil {
		o.LaptopNAT = Masquerade()
	}
	switch {
	case o.OneLink:
		o.Hops = 0
	case o.Hops == 0:
		o.Hops = 6
	}
}

// Scene is the standard one:
//
//	home ── homerouter ──(100.64/10)── carrier ──┐            ┌── laptoprouter ── laptop
//	                                             └─ internet ─┘
//	                                                   │
//	                                                  vps
type Scene struct {
	*Lab
	VPS, Home, Laptop                 *Host
	HomeRouter, Carrier, LaptopRouter *Host         // Carrier is nil with NoCarrier
	Internet                          *hop.Internet // nil with Wire
	backbone                          *Host         // nil without Wire
}

// Standard builds the standard scene.
func Standard(t T, o Options) *Scene {
	t.Helper()
	o.fill()
	s := &Scene{Lab: New(t)}
	if o.Wire {
		s.backbone = s.Host("internet")
		s.backbone.Sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	} else {
		s.openInternet(hop.Link{Loss: o.Loss, Hops: o.Hops})
	}
	s.VPS = s.Public("vps", "203.0.113.0/24", VPSAddr, VPSOtherAddr)
	s.LaptopRouter = s.Public("laptoprouter", "198.51.100.128/25", LaptopPublic)
	s.Laptop = s.Behind(s.LaptopRouter, "laptop", LaptopAddr, o.LaptopNAT, LaptopPublic)
	homeSide := "carrier"
	if o.NoCarrier {
		homeSide = "homerouter"
		s.HomeRouter = s.Public("homerouter", "198.51.100.0/25", HomePublic)
		s.Home = s.Behind(s.HomeRouter, "home", HomeAddr, o.HomeNAT, HomePublic)
	} else {
		s.Carrier = s.Public("carrier", "198.51.100.0/25", HomePublic)
		s.HomeRouter = s.RouterBehind(s.Carrier, "homerouter", HomeWAN, o.CarrierNAT, HomePublic)
		s.Home = s.Behind(s.HomeRouter, "home", HomeAddr, o.HomeNAT, HomeWAN)
	}
	if o.IPv6 {
		s.addIPv6()
	}
	s.delay("vps", homeSide, o.VPSHome)
	s.delay("vps", "laptoprouter", o.VPSLaptop)
	s.delay(homeSide, "laptoprouter", o.HomeLaptop)
	return s
}

func (s *Scene) openInternet(base hop.Link) {
	s.t.Helper()
	internet, err := hop.New(base)
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	s.Internet, s.Lab.internet = internet, internet
}

// Public adds a host with public addresses out of a prefix that is its own.
func (s *Scene) Public(name, prefix string, addrs ...string) *Host {
	s.t.Helper()
	h := s.Host(name)
	route := netip.MustParsePrefix(prefix)
	if s.Internet == nil {
		s.wirePublic(h, route)
	} else {
		s.attachPublic(h, route)
	}
	for _, a := range addrs {
		h.Address(WAN, a+"/32")
	}
	if s.Internet == nil {
		h.IP("route add default via " + backboneAddr + " dev " + WAN + " onlink src " + addrs[0])
	} else {
		h.IP("route add default dev " + WAN + " src " + addrs[0])
	}
	return h
}

func (s *Scene) attachPublic(h *Host, prefix netip.Prefix) {
	s.t.Helper()
	err := h.Do(func() error {
		fd, err := hop.OpenTUN(WAN)
		if err == nil {
			s.Internet.Attach(h.Name, fd, prefix)
		}
		return err
	})
	if err != nil {
		s.t.Fatalf("join %s to the internet: %v", h.Name, err)
	}
	h.IP("link set dev "+WAN+" mtu 1500", "link set dev "+WAN+" txqueuelen 10000", "link set dev "+WAN+" up")
}

// backboneAddr is the kernel router's on each of its wires, so that any
// address may stand at the other end.
const backboneAddr = "169.254.1.1"

func (s *Scene) wirePublic(h *Host, prefix netip.Prefix) {
	s.t.Helper()
	iface := h.Name // at most 15 characters
	s.Wire(h, WAN, s.backbone, iface)
	s.backbone.IP("address add "+backboneAddr+"/32 dev "+iface, "route add "+prefix.String()+" dev "+iface)
}

// Behind adds a host with a private address (in a /24 of its own) behind a
// router, and tells the router how to translate to its public address.
func (s *Scene) Behind(router *Host, name, addr string, n NAT, public string) *Host {
	s.t.Helper()
	return s.behind(router, name, ETH, addr, n, public)
}

// RouterBehind is Behind for a host that is a router itself.
func (s *Scene) RouterBehind(router *Host, name, addr string, n NAT, public string) *Host {
	s.t.Helper()
	return s.behind(router, name, WAN, addr, n, public)
}

func (s *Scene) behind(router *Host, name, iface, addr string, n NAT, public string) *Host {
	s.t.Helper()
	h := s.Host(name)
	gateway := netip.PrefixFrom(netip.MustParseAddr(addr), 24).Masked().Addr().Next()
	s.Wire(router, LAN, h, iface)
	router.Address(LAN, gateway.String()+"/24")
	router.SetNAT(n, WAN, LAN, public)
	h.Address(iface, addr+"/24")
	h.DefaultRoute(gateway.String())
	return h
}

func (s *Scene) delay(a, b string, d time.Duration) {
	s.t.Helper()
	if s.Internet == nil {
		return
	}
	s.SetBoth(a, b, func(l *hop.Link) { l.Delay = d })
}

// SetBoth changes the link between two hosts of the internet in both
// directions.
func (s *Scene) SetBoth(a, b string, change func(*hop.Link)) {
	s.t.Helper()
	for _, way := range [][2]string{{a, b}, {b, a}} {
		link, err := s.Internet.Link(way[0], way[1])
		if err == nil {
			change(&link)
			err = s.Internet.SetLink(way[0], way[1], link)
		}
		if err != nil {
			s.t.Fatalf("change the link from %s to %s: %v", way[0], way[1], err)
		}
	}
}

func (s *Scene) String() string {
	return fmt.Sprintf("the standard scene of lab %s", s.id)
}

// SetBoxes puts boxes between a host of the internet and the rest of it,
// innermost first, in place of those that stand there.
func (s *Scene) SetBoxes(host string, boxes ...hop.Box) {
	s.t.Helper()
	if err := s.Internet.SetBoxes(host, boxes...); err != nil {
		s.t.Fatalf("put boxes before %s: %v", host, err)
	}
}
