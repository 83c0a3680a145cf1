package dgram

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// settle is how long a connect whose time is up may still take, when the peer's
// SYN has crossed ours and only its acknowledgement is missing: it is a round
// trip from success, and given up it would leave a 4-tuple that can't be used
// for a minute.
const settle = time.Second

// SystemStreams makes the host's own TCP connections.
func SystemStreams() Streams { return systemStreams{} }

type systemStreams struct{}

func tcpFamily(a netip.Addr) string {
	if a.Is4() {
		return "tcp4"
	}
	return "tcp6"
}

func plainAddr(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// ListenTCP is Streams'. Other sockets of this program that share the port must
// come from DialTCP. A port that any program listens on is not to be had, though
// that one may share it: it would lose connections to us.
func (systemStreams) ListenTCP(addr netip.AddrPort) (net.Listener, error) {
	if !addr.IsValid() {
		return nil, errors.New("listen on TCP: no address given; 0.0.0.0:0 or [::]:0 takes any")
	}
	addr = plainAddr(addr)
	if addr.Port() != 0 {
		alone, err := PlainStreams().ListenTCP(addr)
		if err != nil {
			return nil, fmt.Errorf("listen on TCP %v: %w", addr, bare(err))
		}
		if err := alone.Close(); err != nil {
			return nil, fmt.Errorf("listen on TCP %v: %w", addr, err)
		}
	}
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return sharePort(c) }}
	config.SetMultipathTCP(false) // its connections don't share ports with plain ones
	l, err := config.Listen(context.Background(), tcpFamily(addr.Addr()), addr.String())
	if err != nil {
		return nil, fmt.Errorf("listen on TCP %v: %w", addr, err)
	}
	return l, nil
}

// DialTCP is Streams'. Of the error, errors.Is tells ECONNREFUSED (a RST came),
// EADDRNOTAVAIL (an old connection between the same two addresses still
// lingers), EHOSTUNREACH and ENETUNREACH, and that of ctx. No RST leaves when
// it is given up: a connect that nothing answered is just forgotten.
func (systemStreams) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	local, remote = plainAddr(local), plainAddr(remote)
	if local.IsValid() && local.Addr().Is4() != remote.Addr().Is4() {
		return nil, fmt.Errorf("connect to %v from %v: %w", remote, local, errFamily)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connect to %v: %w", remote, err) // loopback may be faster than the goroutine that cancels
	}
	var sock atomic.Pointer[syscall.RawConn]
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		sock.Store(&c)
		return sharePort(c)
	}}
	dialer.SetMultipathTCP(false)
	if local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(local)
	}
	connecting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() {
		c := sock.Load()
		if errors.Is(ctx.Err(), context.DeadlineExceeded) && c != nil && crossed(*c) {
			time.AfterFunc(settle, cancel)
			return
		}
		cancel()
	})
	defer stop()
	conn, err := dialer.DialContext(connecting, tcpFamily(remote.Addr()), remote.String())
	if err != nil {
		if ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("connect to %v%s: %w", remote, fromText(local), bare(err))
	}
	return conn, nil
}

// fromText names the local address of a connection, where one was asked for.
func fromText(local netip.AddrPort) string {
	if !local.IsValid() {
		return ""
	}
	return " from " + local.String()
}
