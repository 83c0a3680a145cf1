package portmap

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/windows"
)

// SystemGateways are the default gateways of this host, one a family: of the
// routes with the lowest metric.
func SystemGateways() ([]Gateway, error) {
	var all []Gateway
	for _, family := range []uint16{windows.AF_INET, windows.AF_INET6} {
		var table *windows.MibIpForwardTable2
		if err := windows.GetIpForwardTable2(family, &table); err != nil {
			return nil, fmt.Errorf("list the routes (GetIpForwardTable2): %w", err)
		}
		if g, ok := bestOf(table.Rows()); ok {
			all = append(all, g)
		}
		windows.FreeMibTable(unsafe.Pointer(table))
	}
	return all, nil
}

// bestOf is the gateway of the default route with the lowest metric.
func bestOf(rows []windows.MibIpForwardRow2) (best Gateway, ok bool) {
	least := uint32(math.MaxUint32)
	for i := range rows {
		r := &rows[i]
		ip, valid := addrOf(&r.NextHop)
		if r.DestinationPrefix.PrefixLength != 0 || !valid || ip.IsUnspecified() || r.Metric >= least {
			continue
		}
		itf, err := net.InterfaceByIndex(int(r.InterfaceIndex))
		if err != nil {
			continue // it went away between the two calls
		}
		least, ok = r.Metric, true
		best = onLink(ip, itf.Name)
	}
	return best, ok
}

func addrOf(a *windows.RawSockaddrInet) (netip.Addr, bool) {
	switch a.Family {
	case windows.AF_INET:
		return netip.AddrFrom4((*windows.RawSockaddrInet4)(unsafe.Pointer(a)).Addr), true
	case windows.AF_INET6:
		return netip.AddrFrom16((*windows.RawSockaddrInet6)(unsafe.Pointer(a)).Addr), true
	}
	return netip.Addr{}, false
}
