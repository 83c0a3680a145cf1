package faketcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// Kernels of 2026 let only CAP_NET_ADMIN attach a filter to a TCP socket, lest
// it tell sequence numbers of other programs' connections (seen with 6.18). What
// stands here does without, for programs that have CAP_NET_RAW alone.

// highestTTL is more than any segment has that crossed a router, or that Linux
// sends (64).
const highestTTL = 255

// deafen has a TCP socket drop all that comes, before it is answered, but for
// segments of a TTL or hop limit of 255 (RFC 5082), which a host in the same
// network would have to make on purpose. It takes no privilege.
func deafen(fd int) error {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err == nil && family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, highestTTL)
	} else if err == nil {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MINTTL, highestTTL)
	}
	if err != nil {
		return fmt.Errorf("have a TCP socket drop all segments (IP_MINTTL): %w", err)
	}
	return nil
}

// networkHeader is SKF_NET_OFF of linux/filter.h: offsets from here on count
// from the IP header, wherever the packet's data begins.
const networkHeader = 0xfff00000

// oursApart is the program of a group of listeners: which of them a segment goes
// to that belongs to no connection. The second one takes what is ours.
func oursApart(six bool) []bpf.Instruction {
	p := new(program)
	if six {
		p.add(bpf.LoadConstant{Dst: bpf.RegX, Val: ip6Size})
	} else {
		p.add(bpf.LoadMemShift{Off: networkHeader})
	}
	p.ours(networkHeader)
	p.finish(1, 0)
	return p.code
}

// divert has a listener's segments that are ours go to a deaf listener of our
// own on the same port, and gives that one. The other must have been made with
// SO_REUSEPORT, or it has no group.
func divert(raw syscall.RawConn, at net.Addr) (net.Listener, error) {
	six := false
	err := control(raw, func(fd int) error {
		family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
		if err != nil {
			return err
		}
		six = family == unix.AF_INET6
		// Before there is a second one, or the kernel would share its connections
		// out to both.
		return attachAs(fd, unix.SO_ATTACH_REUSEPORT_CBPF, oursApart(six))
	})
	if err != nil {
		return nil, err
	}
	network := "tcp4"
	if six {
		network = "tcp6"
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error {
			return errors.Join(deafen(fd), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
		})
	}}
	lc.SetMultipathTCP(false)
	return lc.Listen(context.Background(), network, at.String())
}

// rejoin undoes divert, after the deaf listener was closed.
func rejoin(fd int) error {
	return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0)
}
