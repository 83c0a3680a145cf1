package portmap

import (
	"fmt"
	"math"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// SystemGateways are the default gateways of this host, one a family: of the
// routes with the lowest metric. A default route without a gateway, as into a
// tunnel, leads to none.
func SystemGateways() ([]Gateway, error) {
	var all []Gateway
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteList(nil, family)
		if err != nil {
			return nil, fmt.Errorf("list the routes (netlink): %w", err)
		}
		if g, ok := bestOf(routes); ok {
			all = append(all, g)
		}
	}
	return all, nil
}

// bestOf is the gateway of the default route with the lowest metric.
func bestOf(routes []netlink.Route) (best Gateway, ok bool) {
	least := math.MaxInt
	for _, r := range routes {
		if r.Dst != nil {
			if ones, _ := r.Dst.Mask.Size(); ones != 0 {
				continue
			}
		}
		gw, index := r.Gw, r.LinkIndex
		if len(gw) == 0 && len(r.MultiPath) > 0 {
			gw, index = r.MultiPath[0].Gw, r.MultiPath[0].LinkIndex
		}
		ip, valid := netip.AddrFromSlice(gw)
		if !valid || r.Priority >= least {
			continue
		}
		i, err := net.InterfaceByIndex(index)
		if err != nil {
			continue // it went away between the two calls
		}
		least, ok = r.Priority, true
		best = onLink(ip, i.Name)
	}
	return best, ok
}
