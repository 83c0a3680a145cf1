package natlab

import (
	"net"
	"net/netip"
	"sync"
)

// backlog is how many connections wait to be accepted (net.core.somaxconn is
// more, but nobody here lets that many wait).
const backlog = 128

// listener is a kernel's TCP listener.
type listener struct {
	host    *Host
	addr    netip.AddrPort
	waiting []*tcpConn
	change  sync.Cond
	closed  bool
}

func newListener(h *Host, addr netip.AddrPort) *listener {
	l := &listener{host: h, addr: addr}
	l.change.L = &h.lab.mu
	h.tcp.listeners[addr] = l
	h.tcp.hold(addr)
	return l
}

// Addr is the *net.TCPAddr that it is bound to.
func (l *listener) Addr() net.Addr { return net.TCPAddrFromAddrPort(l.addr) }

// Accept waits for a connection.
func (l *listener) Accept() (net.Conn, error) {
	l.host.lab.mu.Lock()
	defer l.host.lab.mu.Unlock()
	for len(l.waiting) == 0 {
		if l.closed {
			return nil, tcpError("accept", l.addr, netip.AddrPort{}, net.ErrClosed)
		}
		l.change.Wait()
	}
	s := l.waiting[0]
	l.waiting = l.waiting[1:]
	return s, nil
}

// Close resets what was not accepted, as Linux does.
func (l *listener) Close() error {
	l.host.lab.mu.Lock()
	defer l.host.lab.mu.Unlock()
	if l.closed {
		return tcpError("close", l.addr, netip.AddrPort{}, net.ErrClosed)
	}
	l.closeLocked()
	return nil
}

func (l *listener) closeLocked() {
	if l.closed {
		return
	}
	l.closed = true
	delete(l.host.tcp.listeners, l.addr)
	l.host.tcp.drop(l.addr)
	for _, s := range l.waiting {
		s.abort(net.ErrClosed)
	}
	l.waiting = nil
	l.change.Broadcast()
}

// receive is a SYN for which there is no connection yet.
func (l *listener) receive(p *parcel) {
	if len(l.waiting) >= backlog {
		l.host.lab.dropped(p, l.host.name, DropSocketFull)
		return
	}
	s := newTCPConn(l.host, p.to, p.from)
	s.parent = l
	s.receive(p)
}

// accepted is a connection whose handshake has ended.
func (l *listener) accepted(s *tcpConn) {
	if l.closed {
		s.abort(net.ErrClosed)
		return
	}
	l.waiting = append(l.waiting, s)
	l.change.Signal()
}
