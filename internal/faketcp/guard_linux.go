package faketcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// guard keeps the kernel's TCP out of our segments on one port. Without it the
// kernel answers each with a RST, since it knows of no connection. It needs no
// firewall rule, and is gone with the process.
type guard struct {
	at netip.AddrPort
	// own is a listening socket of ours that drops everything, so that each
	// segment finds a socket and none is answered. It holds the port too, or
	// shares it with beside.
	own net.Listener
	// beside is another's: a filter of it drops only what is ours, or lets own
	// have that.
	beside syscall.RawConn
}

// newGuard holds addr, or stands beside a listener that holds its port.
func newGuard(addr netip.AddrPort, beside net.Listener) (*guard, error) {
	if beside != nil {
		return standBeside(addr, beside)
	}
	network := "tcp4"
	if addr.Addr().Is6() {
		network = "tcp6" // which also sets IPV6_V6ONLY
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return control(c, attachNothing) }}
	lc.SetMultipathTCP(false) // its sockets know no filter
	l, err := lc.Listen(context.Background(), network, addr.String())
	if err != nil {
		return nil, fmt.Errorf("hold TCP port %v, so that the kernel answers nothing on it: %w", addr, err)
	}
	return &guard{at: portOf(addr, l), own: l}, nil
}

func attachNothing(fd int) error {
	err := attach(fd, nothing())
	if errors.Is(err, unix.EPERM) {
		return deafen(fd)
	}
	return err
}

func standBeside(addr netip.AddrPort, beside net.Listener) (*guard, error) {
	sc, ok := beside.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("share TCP port %v with a listener: a %T has no socket to put a filter on; give the *net.TCPListener below it", addr, beside)
	}
	raw, err := sc.SyscallConn()
	if err == nil {
		err = control(raw, attachWithoutOurs)
	}
	g := &guard{at: portOf(addr, beside), beside: raw}
	if errors.Is(err, unix.EPERM) {
		g.own, err = divert(raw, beside.Addr())
	}
	if err != nil {
		return nil, fmt.Errorf("share TCP port %v with a listener: %w", beside.Addr(), err)
	}
	if addr.Port() != 0 && addr.Port() != g.at.Port() {
		g.close()
		return nil, fmt.Errorf("share TCP port %v with a listener: that one is on %v", addr, beside.Addr())
	}
	return g, nil
}

func attachWithoutOurs(fd int) error {
	if protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); err == nil && protocol == unix.IPPROTO_MPTCP {
		return errors.New("it speaks Multipath TCP, whose sockets know no filter; listen with net.ListenConfig's SetMultipathTCP(false)")
	}
	return attach(fd, withoutOurs())
}

// portOf is addr with the port that l is bound to.
func portOf(addr netip.AddrPort, l net.Listener) netip.AddrPort {
	return netip.AddrPortFrom(addr.Addr(), l.Addr().(*net.TCPAddr).AddrPort().Port())
}

// control does something to a socket's descriptor.
func control(c syscall.RawConn, do func(fd int) error) error {
	var err error
	if outer := c.Control(func(fd uintptr) { err = do(int(fd)) }); outer != nil {
		return outer
	}
	return err
}

func (g *guard) close() error {
	var err error
	if g.own != nil {
		err = g.own.Close()
	}
	if g.beside != nil {
		// The listener may be closed already, and its filter with it.
		_ = control(g.beside, func(fd int) error {
			if g.own != nil {
				return rejoin(fd)
			}
			return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		})
	}
	return err
}
