package faketcp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
)

// vnetHeader is struct virtio_net_hdr, which stands before each packet of a
// socket with PACKET_VNET_HDR: what the kernel is still to do with the packet,
// or has not yet done (linux/virtio_net.h).
type vnetHeader struct {
	flags     uint8
	gso       uint8
	size      uint16 // of all headers
	segment   uint16 // bytes of payload in each segment; the last may have fewer
	sumStart  uint16 // where the checksum begins
	sumOffset uint16 // where it is put, from there
}

const (
	vnetSize = 10

	vnetNeedsSum = 1 // VIRTIO_NET_HDR_F_NEEDS_CSUM
	vnetSumValid = 2 // VIRTIO_NET_HDR_F_DATA_VALID

	vnetPlain = 0 // VIRTIO_NET_HDR_GSO_NONE, _TCPV4, _TCPV6
	vnetTCP4  = 1
	vnetTCP6  = 4
	vnetECN   = 0x80 // beside one of them
)

// socket is a socket of the kernel in Go's poller.
type socket struct {
	file *os.File
	raw  syscall.RawConn
}

func newSocket(family, kind, protocol int, name string) (*socket, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, fmt.Errorf("open a %s: %w", name, err)
	}
	file := os.NewFile(uintptr(fd), name)
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &socket{file: file, raw: raw}, nil
}

func (s *socket) close() error { return s.file.Close() }

// buffers of the kernel, in bytes: as much as UDP sockets have. Packets count
// with the memory they lie in, about twice their length.
const buffers = 2 * dgram.DefaultBuffer

// resize asks for a buffer: past net.core.rmem_max when privileged, else up to
// it. A smaller one only means more loss in a rush, so it is no error.
func resize(fd, force, plain int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, buffers) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, buffers)
	}
}

// openPackets opens the packet socket for segments to a port. It is bound to
// one protocol, so it sees what comes in, once each, and never what leaves; but
// only when its filter stands.
func openPackets(at netip.AddrPort, onlyOurs bool) (*socket, error) {
	s, err := newSocket(unix.AF_PACKET, unix.SOCK_RAW, 0, "packet socket")
	if err != nil {
		return nil, err
	}
	protocol := etherType(at.Addr().Is6())
	err = control(s.raw, func(fd int) error {
		resize(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF)
		resize(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF)
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
			return fmt.Errorf("ask a packet socket for offload (PACKET_VNET_HDR): %w", err)
		}
		if err := attach(fd, segmentsTo(at.Port(), at.Addr().Is6(), onlyOurs)); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap(protocol)}); err != nil {
			return fmt.Errorf("bind a packet socket: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// openKernelWay opens the socket whose packets the kernel routes.
func openKernelWay(at netip.Addr) (*socket, error) {
	family := unix.AF_INET
	if at.Is6() {
		family = unix.AF_INET6
	}
	// IPPROTO_RAW: the IP header is ours, and nothing is received.
	s, err := newSocket(family, unix.SOCK_RAW, unix.IPPROTO_RAW, "raw IP socket")
	if err != nil {
		return nil, err
	}
	if err := control(s.raw, func(fd int) error { return prepareKernelWay(fd, at) }); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare a raw IP socket on %v: %w", at, err), s.close())
	}
	return s, nil
}

// prepareKernelWay makes the kernel ignore what ICMP says about the path's
// size, which the session probes itself, and look for routes as from our
// address.
func prepareKernelWay(fd int, at netip.Addr) error {
	level, name, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	if at.Is6() {
		level, name, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	}
	err := unix.SetsockoptInt(fd, level, name, value)
	switch {
	case err != nil || at.IsUnspecified():
		return err
	case at.Is6():
		return unix.Bind(fd, &unix.SockaddrInet6{Addr: at.As16(), ZoneId: zoneOf(at)})
	}
	return unix.Bind(fd, &unix.SockaddrInet4{Addr: at.As4()})
}

func etherType(six bool) uint16 {
	if six {
		return unix.ETH_P_IPV6
	}
	return unix.ETH_P_IP
}

// swap is htons: what sockets of packets call a protocol.
func swap(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return *(*uint16)(unsafe.Pointer(&b))
}

func zoneOf(a netip.Addr) uint32 {
	if a.Zone() == "" {
		return 0
	}
	i, err := net.InterfaceByName(a.Zone())
	if err != nil {
		return 0 // the kernel will say what it misses
	}
	return uint32(i.Index)
}
