package faketcp

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

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// link is the device of Linux.
//
// Bursts leave by the packet socket: one super-segment each, which the kernel
// or the network card cuts, past the host's own firewall and connection
// tracking. Segments without payload leave by the raw IP socket: the kernel
// routes them, resolves and keeps alive the neighbour, and the host's
// connection tracking learns of the conversation, so that a firewall that
// rejects what it does not know leaves the answers alone. Everything arrives by
// the packet socket.
type link struct {
	at      netip.AddrPort
	anyPort bool // the kernel chose it
	guard   *guard
	packets *socket
	kernel  *socket
	routes  *routes
	ids     atomic.Uint32 // IPv4's identification
	whole   atomic.Bool   // no super-segments: a device refused one
	ended   atomic.Bool   // closed
	sendmsg func(fd uintptr, msg *unix.Msghdr) syscall.Errno
	rx      receiver
	tallies
}

// available says why no segment can be sent from this host: a *path.Failure.
func available() error {
	s, err := newSocket(unix.AF_PACKET, unix.SOCK_RAW, 0, "packet socket")
	if err != nil {
		return refused(err)
	}
	return s.close()
}

// refused makes a failure of what the kernel said to a first socket.
func refused(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		program, unknown := os.Executable()
		if unknown != nil {
			program = "PROGRAM"
		}
		return &path.Failure{
			Reason:   "unprivileged",
			Evidence: err.Error(),
			Advice: "fake TCP needs CAP_NET_RAW: sudo setcap cap_net_raw+ep " + program +
				", or in its systemd unit AmbientCapabilities=CAP_NET_RAW",
			Skipped: true,
		}
	case errors.Is(err, unix.EAFNOSUPPORT), errors.Is(err, unix.ENOPROTOOPT), errors.Is(err, unix.EPROTONOSUPPORT):
		return &path.Failure{
			Reason:   "unsupported",
			Evidence: err.Error(),
			Advice:   "fake TCP needs a kernel with packet sockets (CONFIG_PACKET); sandboxes often have none",
			Skipped:  true,
		}
	}
	return err
}

// openDevice listens on addr, whose port may be 0. beside is nil, or the
// kernel's own listener on that port: then only what looks like ours is taken,
// and that listener no longer sees it. The error is a *path.Failure where this
// host does not let us.
func openDevice(addr netip.AddrPort, beside net.Listener) (device, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	if !addr.Addr().IsValid() {
		return nil, errors.New("listen on fake TCP: no address given; 0.0.0.0:0 or [::]:0 takes any")
	}
	if err := available(); err != nil {
		return nil, err
	}
	l := &link{sendmsg: sendmsg}
	if err := l.open(addr, beside); err != nil {
		return nil, errors.Join(fmt.Errorf("listen on fake TCP %v: %w", addr, err), l.close())
	}
	return l, nil
}

// open makes the guard first: it says which port, and from then on the kernel
// is silent there.
func (l *link) open(addr netip.AddrPort, beside net.Listener) (err error) {
	if l.guard, err = newGuard(addr, beside); err != nil {
		return err
	}
	l.at, l.anyPort = l.guard.at, addr.Port() == 0 && beside == nil
	if l.routes, err = newRoutes(addr.Addr().WithZone("")); err != nil {
		return err
	}
	if l.kernel, err = openKernelWay(addr.Addr()); err != nil {
		return err
	}
	l.packets, err = openPackets(l.at, beside != nil)
	l.rx.ready, l.rx.queue = l.readable, dgram.KeepShort(buffers)
	return err
}

func (l *link) local() netip.AddrPort { return l.at }

func (l *link) setReadDeadline(t time.Time) error {
	return l.closedAs(l.packets.file.SetReadDeadline(t))
}

// guardLingers is how long the guard of a port that the kernel chose outlives
// its device: what peers had sent or send again until they see our FIN would
// be answered by RST, and some NATs forget more than that flow then.
const guardLingers = 3 * time.Second

// close takes the guard away last.
func (l *link) close() error {
	if l.ended.Swap(true) {
		return net.ErrClosed
	}
	var errs []error
	if l.packets != nil {
		errs = append(errs, l.packets.close())
	}
	if l.kernel != nil {
		errs = append(errs, l.kernel.close())
	}
	if l.routes != nil {
		l.routes.close()
	}
	switch {
	case l.guard == nil:
	case l.anyPort:
		time.AfterFunc(guardLingers, func() { _ = l.guard.close() }) // of a listener nobody knows
	default:
		errs = append(errs, l.guard.close())
	}
	return errors.Join(errs...)
}

// closedAs says net.ErrClosed for whatever goes wrong when the device is
// closed: a file's raw descriptor has an error of its own for it.
func (l *link) closedAs(err error) error {
	if err != nil && l.ended.Load() {
		return net.ErrClosed
	}
	return err
}
