package dgram

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sockaddr has room for either family's address as the kernel lays it out.
type sockaddr = unix.RawSockaddrInet6

// Bytes of a sockaddr that the kernel reads.
const (
	sizeInet4 = unix.SizeofSockaddrInet4
	sizeInet6 = unix.SizeofSockaddrInet6
)

// addrOf reads what the kernel wrote. Nothing is allocated, except for the
// first datagram from a link-local address of a zone.
func (z *zones) addrOf(sa *sockaddr) netip.AddrPort {
	port := ntohs(sa.Port)
	if sa.Family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port)
	}
	addr := netip.AddrFrom16(sa.Addr)
	if sa.Scope_id != 0 {
		addr = addr.WithZone(z.name(sa.Scope_id))
	}
	return netip.AddrPortFrom(addr, port)
}

// fill writes addr for the kernel and returns its size; 0 when the socket's
// family can't reach it.
func (z *zones) fill(sa *sockaddr, addr netip.AddrPort, six bool) uint32 {
	to := addr.Addr()
	if !six {
		to = to.Unmap()
		if !to.Is4() {
			return 0
		}
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		*four = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: htons(addr.Port()), Addr: to.As4()}
		return sizeInet4
	}
	if !to.Is6() || to.Is4In6() {
		return 0
	}
	*sa = sockaddr{Family: unix.AF_INET6, Port: htons(addr.Port()), Addr: to.As16()}
	if zone := to.Zone(); zone != "" {
		sa.Scope_id = z.index(zone)
	}
	return sizeInet6
}

// zones remembers the one zone that a socket last met: hosts speak to
// link-local addresses of one interface at a time.
type zones struct{ last atomic.Pointer[zone] }

type zone struct {
	name  string
	index uint32
}

func (z *zones) name(index uint32) string {
	if last := z.last.Load(); last != nil && last.index == index {
		return last.name
	}
	name := strconv.FormatUint(uint64(index), 10)
	if ifc, err := net.InterfaceByIndex(int(index)); err == nil {
		name = ifc.Name
	}
	z.last.Store(&zone{name, index})
	return name
}

func (z *zones) index(name string) uint32 {
	if last := z.last.Load(); last != nil && last.name == name {
		return last.index
	}
	index, _ := strconv.ParseUint(name, 10, 32) // 0, no zone: the kernel will say EINVAL
	if ifc, err := net.InterfaceByName(name); err == nil {
		index = uint64(ifc.Index)
	}
	z.last.Store(&zone{name, uint32(index)})
	return uint32(index)
}

// Ports are in network order whatever the processor's.
func ntohs(p uint16) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&p))[:])
}

func htons(p uint16) (n uint16) {
	binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&n))[:], p)
	return n
}
