package dgram

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is a UDP socket of Linux: one visit to the kernel brings many
// datagrams or takes many.
type socket struct {
	sock    waiter
	raw     syscall.RawConn
	local   netip.AddrPort
	kernel  kernel
	rx      receiver
	segment atomic.Bool // UDP_SEGMENT works; never again after EIO
	zones   zones
	counters
}

// waiter is what owns the descriptor.
type waiter interface {
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	Close() error
}

// kernel is the three system calls, which tests replace to see the errors that
// only some devices give.
type kernel interface {
	receive(fd uintptr, msgs *message, n int) (int, syscall.Errno)
	send(fd uintptr, msg *unix.Msghdr) syscall.Errno
	sendMany(fd uintptr, msgs *message, n int) (int, syscall.Errno)
}

// wrap makes a Conn of a bound socket.
func wrap(sock *net.UDPConn, opts Options) (Conn, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	local := localOf(sock)
	var offload bool
	var setErr error
	err = raw.Control(func(fd uintptr) { offload, setErr = prepare(int(fd), local.Addr().Is6(), opts) })
	if err := errors.Join(err, setErr); err != nil {
		return nil, err
	}
	if opts.Portable {
		return newPortable(sock, raw, local), nil
	}
	s := &socket{sock: sock, raw: raw, local: local, kernel: linux{}}
	s.segment.Store(offload)
	s.rx.ready, s.rx.queue = s.readable, KeepShort(opts.ReadBuffer)
	return s, nil
}

// prepare sets a socket's options, and says whether the kernel knows
// segmentation offload.
func prepare(fd int, six bool, opts Options) (bool, error) {
	resize(fd, unix.SO_RCVBUFFORCE, unix.SO_RCVBUF, opts.ReadBuffer)
	resize(fd, unix.SO_SNDBUFFORCE, unix.SO_SNDBUF, opts.WriteBuffer)
	level, name, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	if six {
		level, name, value = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_PROBE
	}
	if err := unix.SetsockoptInt(fd, level, name, value); err != nil {
		return false, fmt.Errorf("forbid fragments (IP_MTU_DISCOVER=PROBE): %w", err)
	}
	if !opts.Offload || opts.Portable {
		return false, nil
	}
	// A kernel that doesn't know them (before 4.18 and 5.0) says ENOPROTOOPT,
	// and would send a burst as one long datagram if asked to cut it.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) // without it datagrams come one by one
	_, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	return err == nil, nil
}

// resize asks for a buffer of n bytes: past net.core.rmem_max when privileged,
// else up to it. A smaller buffer than asked for only means more loss in a
// rush, so it is no error.
func resize(fd, force, plain, n int) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, force, n) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, plain, n)
	}
}

// LocalAddr is Conn's.
func (s *socket) LocalAddr() netip.AddrPort { return s.local }

// SetReadDeadline is Conn's.
func (s *socket) SetReadDeadline(t time.Time) error { return s.sock.SetReadDeadline(t) }

// Close is Conn's; a Read that waits returns net.ErrClosed.
func (s *socket) Close() error {
	s.roll.leave(s)
	return s.sock.Close()
}

// Stats is StatsReader's.
func (s *socket) Stats() Stats {
	all := s.stats()
	var info [unix.SK_MEMINFO_VARS]uint32
	_ = s.raw.Control(func(fd uintptr) { info = memInfo(fd) }) // closed: nothing to add
	all.Overflow = uint64(info[unix.SK_MEMINFO_DROPS])
	return all
}

// broken makes the error that Read or Write returns when the netpoller ended
// it, or the kernel did.
func (s *socket) broken(op string, to netip.AddrPort, n int, err error) error {
	switch {
	case errors.Is(err, net.ErrClosed):
		return net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded) && op == "read":
		return os.ErrDeadlineExceeded
	}
	return &Error{Op: op, Local: s.local, Addr: to, Bytes: n, Err: err}
}
