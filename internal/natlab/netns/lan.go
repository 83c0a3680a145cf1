//go:build linux

package netns

import (
	"fmt"
	"net/netip"
)

// Shared adds a router with a public address and, behind it, hosts on one LAN
// that reach each other by a switch: their addresses by their names, in a /24.
func (s *Scene) Shared(router, prefix, public string, n NAT, hosts map[string]string) map[string]*Host {
	s.t.Helper()
	r, lan := s.Public(router, prefix, public), s.Host(router+"lan")
	lan.IP("link add name switch type bridge", "link set dev switch up")
	plug := func(h *Host, iface string, n int) {
		port := fmt.Sprintf("port%d", n)
		s.Wire(h, iface, lan, port)
		lan.IP("link set dev " + port + " master switch")
	}
	plug(r, LAN, 0)
	r.SetNAT(n, WAN, LAN, public)
	all, gateway := make(map[string]*Host), ""
	for name, addr := range hosts {
		h := s.Host(name)
		plug(h, ETH, len(all)+1)
		h.Address(ETH, addr+"/24")
		if next := netip.PrefixFrom(netip.MustParseAddr(addr), 24).Masked().Addr().Next().String(); next != gateway {
			gateway = next
			r.Address(LAN, gateway+"/24")
		}
		h.DefaultRoute(gateway)
		all[name] = h
	}
	return all
}
