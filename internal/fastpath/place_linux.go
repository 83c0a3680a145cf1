//go:build !mips && !mips64 && !ppc64 && !s390x

package fastpath

import (
	"fmt"
	"net"
	"net/netip"
)

// place is where one end of a flow is: the interface behind which the other side
// of it is, and our address there.
type place struct {
	interfaceOf int
	own         netip.AddrPort
	loopback    bool
}

// placeOf finds the interface by which e.Remote is reached.
func placeOf(e Ends) (place, error) {
	e, err := e.Settled()
	if err != nil {
		return place{}, err
	}
	remote, addr := e.Remote, e.Local.Addr()
	if !remote.Addr().Is4() {
		return place{}, fmt.Errorf("%v: %w", remote, errIPv6)
	}
	p := place{own: e.Local, loopback: remote.Addr().IsLoopback()}
	if !addr.Is4() || p.loopback != addr.IsLoopback() {
		return place{}, fmt.Errorf("%v from %v: %w", remote, addr, errPlace)
	}
	all, err := net.Interfaces()
	if err != nil {
		return place{}, fmt.Errorf("list the interfaces: %w", err)
	}
	for _, i := range all {
		switch {
		case p.loopback && i.Flags&net.FlagLoopback != 0:
			p.interfaceOf = i.Index
			return p, nil
		case p.loopback:
		case has(i, remote.Addr()):
			return place{}, fmt.Errorf("%v is this host's own: %w", remote, errPlace)
		case has(i, addr) && len(i.HardwareAddr) == 6:
			p.interfaceOf = i.Index
		}
	}
	if p.interfaceOf == 0 {
		return place{}, fmt.Errorf("%v from %v: %w", remote, addr, errPlace)
	}
	return p, nil
}

func has(i net.Interface, addr netip.Addr) bool {
	own, err := i.Addrs()
	if err != nil {
		return false
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Unmap() == addr {
			return true
		}
	}
	return false
}
