//go:build darwin || freebsd || netbsd || openbsd || dragonfly

package portmap

import (
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/route"
	"golang.org/x/sys/unix"
)

// SystemGateways are the default gateways of this host, one a family: of the
// first route that the system lists.
func SystemGateways() ([]Gateway, error) {
	var all []Gateway
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		rib, err := route.FetchRIB(family, route.RIBTypeRoute, 0)
		if err != nil {
			return nil, fmt.Errorf("list the routes: %w", err)
		}
		messages, err := route.ParseRIB(route.RIBTypeRoute, rib)
		if err != nil {
			return nil, fmt.Errorf("list the routes: %w", err)
		}
		for _, m := range messages {
			if g, ok := defaultOf(m); ok {
				all = append(all, g)
				break
			}
		}
	}
	return all, nil
}

// defaultOf is the gateway of a default route.
func defaultOf(m route.Message) (Gateway, bool) {
	r, ok := m.(*route.RouteMessage)
	if !ok || r.Flags&unix.RTF_GATEWAY == 0 || r.Flags&unix.RTF_UP == 0 || len(r.Addrs) <= unix.RTAX_GATEWAY {
		return Gateway{}, false
	}
	to, ok := addrOf(r.Addrs[unix.RTAX_DST])
	if !ok || !to.IsUnspecified() || len(r.Addrs) > unix.RTAX_NETMASK && !isZero(r.Addrs[unix.RTAX_NETMASK]) {
		return Gateway{}, false
	}
	ip, ok := addrOf(r.Addrs[unix.RTAX_GATEWAY])
	if !ok {
		return Gateway{}, false
	}
	i, err := net.InterfaceByIndex(r.Index)
	if err != nil {
		return Gateway{}, false
	}
	return onLink(ip, i.Name), true
}

// isZero says whether a mask is that of everything; none is, too.
func isZero(a route.Addr) bool {
	mask, ok := addrOf(a)
	return !ok || mask.IsUnspecified()
}

func addrOf(a route.Addr) (netip.Addr, bool) {
	switch a := a.(type) {
	case *route.Inet4Addr:
		return netip.AddrFrom4(a.IP), true
	case *route.Inet6Addr:
		return netip.AddrFrom16(a.IP), true
	}
	return netip.Addr{}, false
}
