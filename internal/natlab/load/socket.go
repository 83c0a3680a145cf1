//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is a blocking UDP socket: a thread that waits in the kernel answers
// sooner than one that waits in the runtime's poller, and costs less.
type socket struct {
	fd      int
	control []byte         // the message that carries UDP_SEGMENT
	peer    netip.AddrPort // of a connected one
}

const socketBuffer = 16 << 20

func listenSocket(addr netip.AddrPort) (*socket, error) {
	s, err := openSocket(addr)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(s.fd, sockaddr(addr)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on udp %v: %w", addr, err), unix.Close(s.fd))
	}
	return s, nil
}

func dialSocket(addr netip.AddrPort) (*socket, error) {
	s, err := openSocket(addr)
	if err != nil {
		return nil, err
	}
	if err := unix.Connect(s.fd, sockaddr(addr)); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to udp %v: %w", addr, err), unix.Close(s.fd))
	}
	s.peer = addr
	return s, nil
}

func openSocket(addr netip.AddrPort) (*socket, error) {
	family := unix.AF_INET6
	if addr.Addr().Is4() {
		family = unix.AF_INET
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a UDP socket: %w", err)
	}
	for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, socketBuffer); err != nil {
			return nil, errors.Join(fmt.Errorf("size a socket's buffer: %w", err), unix.Close(fd))
		}
	}
	// Root may go beyond the limit that net.core.rmem_max sets; others may not.
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, socketBuffer)
	return &socket{fd: fd}, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// send writes datagrams of size bytes that lie end to end; more than one go in
// one call with UDP_SEGMENT. What the network says of earlier ones (ICMP-born
// errors) is of no interest to a load.
func (s *socket) send(b []byte, size int) error {
	var control []byte
	if len(b) > size {
		control = s.segment(size)
	}
	_, err := unix.SendmsgN(s.fd, b, control, nil, 0)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EHOSTUNREACH) {
		return nil
	}
	return os.NewSyscallError("sendmsg", err)
}

func (s *socket) segment(size int) []byte {
	if s.control == nil {
		s.control = make([]byte, unix.CmsgSpace(2))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&s.control[0]))
		h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		h.SetLen(unix.CmsgLen(2))
	}
	binary.NativeEndian.PutUint16(s.control[unix.CmsgLen(0):], uint16(size))
	return s.control
}

// receive waits at most so long for one datagram; os.ErrDeadlineExceeded then.
func (s *socket) receive(b []byte, limit time.Duration) (int, error) {
	deadline := monotonic() + limit
	for {
		rest := deadline - monotonic()
		if rest <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		wait := unix.NsecToTimespec(int64(rest))
		ready, err := unix.Ppoll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, &wait, nil)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, os.NewSyscallError("ppoll", err)
		}
		if ready <= 0 {
			continue
		}
		if n, err := s.take(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

// take is receive without a wait.
func (s *socket) take(b []byte) (int, error) {
	n, _, err := unix.Recvfrom(s.fd, b, unix.MSG_DONTWAIT)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ECONNREFUSED), errors.Is(err, unix.EHOSTUNREACH):
		return 0, os.ErrDeadlineExceeded
	}
	return 0, os.NewSyscallError("recvfrom", err)
}

// shrink makes the buffers those of one client of many.
func (s *socket) shrink() {
	const little = 64 << 10
	for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF} {
		// Larger ones do no harm.
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, option, little)
	}
}

func (s *socket) close() error { return unix.Close(s.fd) }

func monotonic() time.Duration {
	var t unix.Timespec
	// CLOCK_MONOTONIC is always there, and the pointer is ours.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return time.Duration(t.Nano())
}

// rest sleeps in the kernel: time.Sleep is exact to a millisecond only.
func rest(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	// Woken early by a signal: whoever sleeps looks at the clock again.
	_ = unix.Nanosleep(&t, nil)
}
