package dgram

import (
	"net"
	"net/netip"
)

// AddrOf is an address of UDP or TCP as a value, IPv4 as such; the zero one
// where it is no such.
func AddrOf(a net.Addr) netip.AddrPort {
	with, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	at := with.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// Any is the address that stands for all of a family.
func Any(like netip.Addr) netip.Addr {
	if like.Unmap().Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// Near is where a client's socket before a service is bound, on any port: on
// loopback for a service there, so that nobody outside can send to it.
func Near(service netip.Addr) netip.AddrPort {
	addr := Any(service)
	switch {
	case service.IsLoopback() && service.Is4():
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case service.IsLoopback():
		addr = netip.IPv6Loopback()
	}
	return netip.AddrPortFrom(addr, 0)
}

// Reset closes a connection so that its other end sees that it broke, and takes
// it for no orderly end.
func Reset(conn net.Conn) {
	if c, ok := conn.(interface{ SetLinger(int) error }); ok {
		_ = c.SetLinger(0) // a wish
	}
	_ = conn.Close()
}
