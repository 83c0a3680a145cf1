//go:build linux

package netns

import "net/netip"

// Beside adds a host to the network behind a router that has one host there
// already: both then hang at a switch, which the router's own address there
// moves to. The interface is ETH, or WAN for what is a router itself.
func (s *Scene) Beside(router *Host, name, iface, addr string) *Host {
	s.t.Helper()
	const first, second = "port1", "port2"
	network := netip.PrefixFrom(netip.MustParseAddr(addr), 24).Masked()
	gateway := network.Addr().Next().String()
	router.IP("link set dev "+LAN+" down", "link set dev "+LAN+" name "+first,
		"link add name "+LAN+" type bridge forward_delay 0", "link set dev "+LAN+" up")
	// Where the kernel has br_netfilter, what the router translates would go
	// straight from port to port, past the rules that know LAN as its way in.
	if _, err := router.Try("sysctl", "-q", "net.bridge.bridge-nf-call-iptables"); err == nil {
		router.Sysctl("net.bridge.bridge-nf-call-iptables=0")
	}
	h := s.Host(name)
	s.Wire(router, second, h, iface)
	router.IP("address flush dev "+first, "link set dev "+first+" master "+LAN, "link set dev "+second+" master "+LAN, "link set dev "+first+" up")
	router.Address(LAN, gateway+"/24")
	h.Address(iface, addr+"/24")
	h.DefaultRoute(gateway)
	return h
}
