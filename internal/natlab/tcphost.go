package natlab

import (
	"context"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"rendezvous/internal/dgram"
)

var (
	_ dgram.Streams = (*Host)(nil)
	_ dgram.FakeTCP = (*Host)(nil)
)

// tcpSockets are a host's, of all three sorts.
type tcpSockets struct {
	listeners map[netip.AddrPort]*listener
	streams   map[pair]*tcpConn
	fakes     map[netip.AddrPort]*fakeConn
	ports     map[portKey]int // sockets on a port of a family
}

func newTCPSockets() tcpSockets {
	return tcpSockets{
		listeners: map[netip.AddrPort]*listener{},
		streams:   map[pair]*tcpConn{},
		fakes:     map[netip.AddrPort]*fakeConn{},
		ports:     map[portKey]int{},
	}
}

// hold and drop count who uses a port.
func (t *tcpSockets) hold(a netip.AddrPort) { t.ports[portKey{a.Addr().Is4(), a.Port()}]++ }

func (t *tcpSockets) drop(a netip.AddrPort) {
	k := portKey{a.Addr().Is4(), a.Port()}
	if t.ports[k]--; t.ports[k] == 0 {
		delete(t.ports, k)
	}
}

// listenerAt and fakeAt find who is bound to a, or to its port on all
// addresses.
func (t *tcpSockets) listenerAt(a netip.AddrPort) *listener {
	if l := t.listeners[a]; l != nil {
		return l
	}
	return t.listeners[unspecified(a)]
}

func (t *tcpSockets) fakeAt(a netip.AddrPort) *fakeConn {
	if f := t.fakes[a]; f != nil {
		return f
	}
	return t.fakes[unspecified(a)]
}

// closeAll ends them with the lab.
func (t *tcpSockets) closeAll() {
	for _, l := range t.listeners {
		l.closeLocked()
	}
	for _, s := range t.streams {
		s.die(net.ErrClosed)
	}
	for _, f := range t.fakes {
		f.closeLocked()
	}
}

// tcpError is an error as package net words it.
func tcpError(op string, local, remote netip.AddrPort, why error) error {
	e := &net.OpError{Op: op, Net: "tcp", Source: net.TCPAddrFromAddrPort(local), Err: why}
	if remote.IsValid() {
		e.Addr = net.TCPAddrFromAddrPort(remote)
	}
	return e
}

// bindTCP checks addr and finds its port; beside is a listener that may be on
// it already.
func (h *Host) bindTCP(addr netip.AddrPort, beside *listener) (netip.AddrPort, error) {
	if !addr.IsValid() {
		addr = netip.AddrPortFrom(netip.IPv4Unspecified(), addr.Port())
	}
	if h.lab.closed {
		return addr, net.ErrClosed
	}
	if a := addr.Addr(); !a.IsUnspecified() && !h.isLocal(a) {
		return addr, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
	}
	if addr.Port() == 0 {
		port, ok := h.freePort(h.tcp.ports, addr.Addr())
		if !ok {
			return addr, os.NewSyscallError("bind", syscall.EADDRINUSE)
		}
		return netip.AddrPortFrom(addr.Addr(), port), nil
	}
	if l := h.tcp.listenerAt(addr); l != nil && l != beside || h.tcp.fakeAt(addr) != nil {
		return addr, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	return addr, nil
}

// ListenTCP is dgram.Streams's.
func (h *Host) ListenTCP(addr netip.AddrPort) (net.Listener, error) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	at, err := h.bindTCP(addr, nil)
	if err != nil {
		return nil, tcpError("listen", at, netip.AddrPort{}, err)
	}
	return newListener(h, at), nil
}

// ListenFakeTCP is dgram.FakeTCP's. beside is a listener of this host.
func (h *Host) ListenFakeTCP(addr netip.AddrPort, beside net.Listener) (dgram.Opener, error) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	l, ok := beside.(*listener)
	if beside != nil && !ok {
		return nil, tcpError("listen", addr, netip.AddrPort{}, syscall.EINVAL)
	}
	if l != nil && addr.Port() == 0 {
		addr = netip.AddrPortFrom(addr.Addr(), l.addr.Port())
	}
	at, err := h.bindTCP(addr, l)
	if err != nil {
		return nil, tcpError("listen", at, netip.AddrPort{}, err)
	}
	return newFakeConn(h, at, l != nil), nil
}

// DialTCP is dgram.Streams's.
func (h *Host) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	remote = netip.AddrPortFrom(remote.Addr().Unmap(), remote.Port())
	s, err := h.dial(local, remote)
	if err != nil {
		return nil, tcpError("dial", local, remote, err)
	}
	select {
	case <-s.up:
	case <-ctx.Done():
	}
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	switch {
	case s.why != nil:
		return nil, tcpError("dial", s.local, remote, s.why)
	case s.state != tcpEstablished:
		s.die(ctx.Err())
		return nil, tcpError("dial", s.local, remote, ctx.Err())
	}
	return s, nil
}

// dial sends the first SYN.
func (h *Host) dial(local, remote netip.AddrPort) (*tcpConn, error) {
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	if !remote.IsValid() || remote.Port() == 0 {
		return nil, os.NewSyscallError("connect", syscall.EINVAL)
	}
	if h.lab.closed {
		return nil, net.ErrClosed
	}
	if !local.IsValid() {
		local = unspecified(netip.AddrPortFrom(remote.Addr(), local.Port()))
	}
	from, err := h.source(local.Addr(), remote.Addr())
	if err != nil {
		return nil, os.NewSyscallError("connect", err)
	}
	port := local.Port()
	if port == 0 {
		var ok bool
		if port, ok = h.freePort(h.tcp.ports, from); !ok {
			return nil, os.NewSyscallError("bind", syscall.EADDRNOTAVAIL)
		}
	}
	at := netip.AddrPortFrom(from, port)
	if f := h.tcp.fakeAt(at); f != nil && !f.beside {
		return nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	if h.tcp.streams[pair{at, remote}] != nil {
		return nil, os.NewSyscallError("connect", syscall.EADDRNOTAVAIL)
	}
	s := newTCPConn(h, at, remote)
	s.state = tcpSynSent
	s.handshake(time.Now())
	return s, nil
}

// receiveTCP takes a segment to the socket that it is for, or refuses it.
func (h *Host) receiveTCP(p *parcel) {
	fake, reset := h.tcp.fakeAt(p.to), p.tcp.TCP == TCPReset
	switch {
	case fake == nil:
		h.receiveStream(p)
	case p.tcp.Fake:
		fake.receive(p)
	case reset: // of a NAT, or of a kernel without the socket: whose it is doesn't show
		fake.receive(p)
		if s := h.tcp.streams[pair{p.to, p.from}]; s != nil {
			s.receive(p)
		}
	case fake.beside:
		h.receiveStream(p)
	default: // no RST leaves: a guard holds the port
		h.lab.dropped(p, h.name, DropForeign)
	}
}

// receiveStream is what the kernel does with a segment.
func (h *Host) receiveStream(p *parcel) {
	s, l, reset := h.tcp.streams[pair{p.to, p.from}], h.tcp.listenerAt(p.to), p.tcp.TCP == TCPReset
	switch {
	case s != nil && p.tcp.Fake && !reset:
		h.lab.dropped(p, h.name, DropForeign)
	case s != nil:
		s.receive(p)
	case reset:
		h.lab.dropped(p, h.name, DropNoSocket)
	case l != nil && p.tcp.TCP == TCPSyn && !p.tcp.Fake:
		l.receive(p)
	default:
		h.lab.dropped(p, h.name, DropReset)
		rst := p.answer(h.name)
		h.lab.number(rst, h.name)
		h.dispatch(rst)
	}
}

// dispatch sends p on its way. What stays on the host arrives at once, but not
// within the call.
func (h *Host) dispatch(p *parcel) {
	if h.meter != nil {
		h.meter(p.to, p.count())
	}
	switch {
	case !h.isLocal(p.to.Addr()):
		h.attachment.send(p)
	case p.tcp == nil:
		h.receive(p)
	default:
		h.lab.agenda.plan(time.Now(), func() { h.receive(p) })
	}
}
