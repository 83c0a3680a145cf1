//go:build linux

package netns

import "net/netip"

// IPv6 addresses of the standard scene, out of RFC 3849's block for
// documentation.
const (
	VPSIPv6    = "2001:db8:1::10"
	HomeIPv6   = "2001:db8:2::2"
	LaptopIPv6 = "2001:db8:3::2"
)

// Both ends of a wire between routers, in IPv6's link-local block.
const (
	upstream   = "fe80::1"
	downstream = "fe80::2"
)

// firewall6 is what a home router has instead of a NAT: what was not asked for
// does not come in.
const firewall6 = `table ip6 nat_lab {
 counter unsolicited6 { }
 chain passing {
  type filter hook forward priority 0; policy accept;
  ct state established,related accept
  iifname "wan0" counter name unsolicited6 drop
 }
}
`

func (s *Scene) addIPv6() {
	s.t.Helper()
	s.publicIPv6(s.VPS, "2001:db8:1::/64")
	s.VPS.Address(WAN, VPSIPv6+"/128")
	s.publicIPv6(s.LaptopRouter, "2001:db8:3::/64")
	s.lanIPv6(s.LaptopRouter, "2001:db8:3::1", s.Laptop, LaptopIPv6)
	if s.Carrier == nil {
		s.publicIPv6(s.HomeRouter, "2001:db8:2::/64")
	} else {
		s.publicIPv6(s.Carrier, "2001:db8:2::/64")
		s.Carrier.Address(LAN, upstream+"/64")
		s.HomeRouter.Address(WAN, downstream+"/64")
		s.Carrier.IP("route add 2001:db8:2::/64 via " + downstream + " dev " + LAN)
		s.HomeRouter.IP("route add ::/0 via " + upstream + " dev " + WAN)
	}
	s.lanIPv6(s.HomeRouter, "2001:db8:2::1", s.Home, HomeIPv6)
}

// publicIPv6 leads a prefix to a host on the internet.
func (s *Scene) publicIPv6(h *Host, prefix string) {
	s.t.Helper()
	if s.Internet != nil {
		if err := s.Internet.AddPrefix(h.Name, netip.MustParsePrefix(prefix)); err != nil {
			s.t.Fatalf("%v", err)
		}
		h.IP("route add ::/0 dev " + WAN)
		return
	}
	s.backbone.Address(h.Name, upstream+"/64")
	h.Address(WAN, downstream+"/64")
	s.backbone.IP("route add " + prefix + " via " + downstream + " dev " + h.Name)
	h.IP("route add ::/0 via " + upstream + " dev " + WAN)
}

func (s *Scene) lanIPv6(router *Host, gateway string, h *Host, addr string) {
	s.t.Helper()
	router.NFT(firewall6)
	router.Address(LAN, gateway+"/64")
	h.Address(ETH, addr+"/64")
	h.IP("route add ::/0 via " + gateway)
}
