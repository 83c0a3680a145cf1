package portmap

import (
	"net/netip"

	"rendezvous/internal/dgram"
)

// roads are the ways to the gateways that are worth asking: from each of our
// addresses that another host could not reach without the gateway's doing.
func roads(gateways []Gateway, addrs []dgram.HostAddr) (all []road) {
	for _, g := range gateways {
		if g.Addr.Unmap().Is4() {
			all = append(all, roadOf4(g, addrs)...)
		} else {
			all = append(all, roadsOf6(g, addrs)...)
		}
	}
	return all
}

// roadOf4 is from our private address in the gateway's network. One that is
// not private is translated by nobody.
func roadOf4(g Gateway, addrs []dgram.HostAddr) []road {
	gateway := g.Addr.Unmap()
	for _, h := range addrs {
		ip := h.Addr.Addr().Unmap()
		near := h.Up && ip.Is4() && (g.Interface == "" || g.Interface == h.Interface) && ip != gateway
		if near && h.Addr.Masked().Contains(gateway) && (ip.IsPrivate() || shared.Contains(ip)) {
			return []road{{gateway: gateway, source: ip}}
		}
	}
	return nil
}

// shared is the space between a home and its carrier's NAT (RFC 6598).
var shared = netip.MustParsePrefix("100.64.0.0/10")

// roadsOf6 are from the global addresses of the gateway's interface, or else
// from the unique local ones: NAT66 may stand there.
func roadsOf6(g Gateway, addrs []dgram.HostAddr) []road {
	var global, local []road
	for _, h := range addrs {
		ip := h.Addr.Addr()
		if !h.Up || !ip.Is6() || ip.Is4In6() || !ip.IsGlobalUnicast() || ip == g.Addr || ip.IsLoopback() {
			continue
		}
		if g.Interface != "" && g.Interface != h.Interface || g.Interface == "" && !h.Addr.Masked().Contains(g.Addr) {
			continue
		}
		if ip.IsPrivate() {
			local = append(local, road{gateway: g.Addr, source: ip})
		} else {
			global = append(global, road{gateway: g.Addr, source: ip})
		}
	}
	if len(global) == 0 {
		global = local
	}
	return global[:min(len(global), sourcesSix)]
}

// onLink is a gateway that an interface leads to.
func onLink(ip netip.Addr, name string) Gateway {
	if ip = ip.Unmap(); ip.IsLinkLocalUnicast() && ip.Is6() {
		ip = ip.WithZone(name)
	}
	return Gateway{Addr: ip, Interface: name}
}
