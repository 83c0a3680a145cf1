package stun

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// How far and how long BehindCarrier looks. A carrier's NAT stands within a few
// routers of the customer's. Linux routers complain to one host at most six
// times in a row and then once a second (icmp_ratelimit), so few tries it is.
const (
	traceHops   = 6
	traceTries  = 3
	traceWait   = 150 * time.Millisecond
	tracePort   = 33434 // traceroute's first, where nobody listens
	icmpExpired = 11    // ICMP "time exceeded", RFC 792
)

// BehindCarrier says whether a carrier translates behind the router of this
// network, where the world knows us as mapped; false also where that can't be
// known. It needs no privilege, sends a few datagrams of a low TTL, and takes
// less than half a second.
//
// Two things must be so, because carriers also give addresses of the shared
// space (RFC 6598) to routers which don't translate: a router on the way to
// server has one, and the mapped address isn't the first router's own. If it
// were, that router would take what is sent there, and not complain of its TTL.
func BehindCarrier(ctx context.Context, mapped netip.Addr, server netip.AddrPort) (bool, error) {
	mapped, server = mapped.Unmap(), plain(server)
	if !mapped.Is4() || !server.Addr().Is4() {
		return false, nil
	}
	beyond := false
	err := trace(ctx, netip.AddrPortFrom(mapped, tracePort), 1, func(netip.Addr) bool {
		beyond = true
		return true
	})
	if err != nil || !beyond {
		return false, err
	}
	carrier := false
	err = trace(ctx, server, traceHops, func(router netip.Addr) bool {
		carrier = SharedSpace(router, mapped)
		return carrier
	})
	return carrier, err
}

// trace sends datagrams that die on the way, and calls found with the routers
// that say so, until it returns true. It has no goroutine, and stays on the
// caller's thread.
func trace(ctx context.Context, to netip.AddrPort, hops int, found func(router netip.Addr) bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("trace the way to %v: %w", to, err)
	}
	defer func() { _ = unix.Close(fd) }() // nothing is buffered
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1); err != nil {
		return fmt.Errorf("trace the way to %v: %w", to, err)
	}
	dst := &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
	for range traceTries {
		for ttl := 1; ttl <= hops; ttl++ {
			if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TTL, ttl); err != nil {
				return fmt.Errorf("trace the way to %v: %w", to, err)
			}
			// A write tells of an earlier datagram's death instead of sending
			// another. Where none can be sent at all, nothing is found.
			for range ttl + 1 {
				if unix.Sendto(fd, bindingRequest(transaction{}, 0), 0, dst) == nil {
					break
				}
			}
		}
		if listen(ctx, fd, time.Now().Add(traceWait), found) || ctx.Err() != nil {
			return nil
		}
	}
	return nil
}

// listen reads the socket's queue of errors until a time, or until found gives
// true.
func listen(ctx context.Context, fd int, until time.Time, found func(router netip.Addr) bool) bool {
	oob := make([]byte, 512)
	for ctx.Err() == nil {
		_, n, _, _, err := unix.Recvmsg(fd, nil, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
		if err == nil {
			if router, ok := expiredAt(oob[:n]); ok && found(router) {
				return true
			}
			continue
		}
		left := time.Until(until)
		if left <= 0 {
			return false
		}
		// An error in the queue wakes the poll by POLLERR, which needs no asking.
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if _, err := unix.Poll(fds, int(left/time.Millisecond)+1); err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
	}
	return false
}

// sizeofExtendedErr is the size of the kernel's struct sock_extended_err
// (linux/errqueue.h); the address of who sent the ICMP message follows it.
const sizeofExtendedErr = 16

// expiredAt reads the router's address out of control data that tells of a
// datagram whose TTL ended.
func expiredAt(oob []byte) (netip.Addr, bool) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}, false
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_IP || m.Header.Type != unix.IP_RECVERR || len(m.Data) < sizeofExtendedErr+unix.SizeofSockaddrInet4 {
			continue
		}
		// Fields: errno (4), origin, type, code, pad, info (4), data (4).
		origin, kind, offender := m.Data[4], m.Data[5], m.Data[sizeofExtendedErr:]
		if origin == unix.SO_EE_ORIGIN_ICMP && kind == icmpExpired && binary.NativeEndian.Uint16(offender) == unix.AF_INET {
			return netip.AddrFrom4([4]byte(offender[4:8])), true
		}
	}
	return netip.Addr{}, false
}
