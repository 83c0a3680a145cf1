package dgram

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// PacketConn is a net.PacketConn on a Conn that somebody else reads: that
// reader delivers what is meant for it. It exists for the QUIC connections
// that share a socket with probes and data.
type PacketConn struct {
	conn    Conn
	local   net.UDPAddr
	dropped atomic.Uint64
	unsent  atomic.Uint64

	mu       sync.Mutex
	arrived  sync.Cond // something was delivered, or a reason to stop waiting
	queue    inbox
	from     *net.UDPAddr // the last source, so that a busy one costs no allocation
	deadline Deadline
	closed   bool
}

// NewPacketConn makes a PacketConn that writes to conn.
func NewPacketConn(conn Conn) *PacketConn {
	p := &PacketConn{conn: conn, local: *net.UDPAddrFromAddrPort(conn.LocalAddr())}
	p.arrived.L = &p.mu
	return p
}

// Deliver copies b's datagrams into the queue. A full queue loses its oldest,
// as of a connection's datagrams the newest matter.
func (p *PacketConn) Deliver(b Burst) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	for d := range b.All() {
		if !p.queue.push(b.Addr, d) {
			p.dropped.Add(1)
		}
	}
	p.arrived.Signal()
}

// Dropped is how many delivered datagrams a full queue lost.
func (p *PacketConn) Dropped() uint64 { return p.dropped.Load() }

// Unsent is how many datagrams the Conn did not take. WriteTo doesn't return
// these errors.
func (p *PacketConn) Unsent() uint64 { return p.unsent.Load() }

// ReadFrom is net.PacketConn's; the address is a *net.UDPAddr that must not be
// changed. What b is too short for is lost.
func (p *PacketConn) ReadFrom(b []byte) (int, net.Addr, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.closed:
			return 0, nil, net.ErrClosed
		case p.deadline.Passed():
			return 0, nil, os.ErrDeadlineExceeded
		}
		if n, from, ok := p.queue.pop(b); ok {
			return n, p.udpAddr(from), nil
		}
		p.arrived.Wait()
	}
}

func (p *PacketConn) udpAddr(a netip.AddrPort) *net.UDPAddr {
	if p.from == nil || p.from.AddrPort() != a {
		p.from = net.UDPAddrFromAddrPort(a)
	}
	return p.from
}

// WriteTo is net.PacketConn's, for a *net.UDPAddr. Of what goes wrong only
// net.ErrClosed is returned: QUIC gives up a connection at the first error of
// its socket, but a missing route or a full queue passes, and is to it just
// another lost datagram.
func (p *PacketConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	to, ok := addr.(*net.UDPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: "udp", Source: &p.local, Addr: addr, Err: syscall.EINVAL}
	}
	at := to.AddrPort()
	err := p.conn.Write(One(netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), b))
	if errors.Is(err, net.ErrClosed) {
		return 0, net.ErrClosed
	}
	if err != nil {
		p.unsent.Add(1)
	}
	return len(b), nil
}

// LocalAddr is the *net.UDPAddr of the Conn.
func (p *PacketConn) LocalAddr() net.Addr { return &p.local }

// SetReadDeadline is net.PacketConn's.
func (p *PacketConn) SetReadDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.deadline.Set(&p.arrived, t)
	return nil
}

// SetWriteDeadline does nothing: a write doesn't wait.
func (p *PacketConn) SetWriteDeadline(time.Time) error { return nil }

// SetDeadline is SetReadDeadline.
func (p *PacketConn) SetDeadline(t time.Time) error { return p.SetReadDeadline(t) }

// SetReadBuffer does nothing: the Conn's owner chose its buffers.
func (p *PacketConn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing: the Conn's owner chose its buffers.
func (p *PacketConn) SetWriteBuffer(int) error { return nil }

// Close ends what waits in ReadFrom. The Conn stays open.
func (p *PacketConn) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.queue = inbox{}
	p.deadline.Set(&p.arrived, time.Time{})
	return nil
}
