package dgram

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// portable is a UDP socket of any platform: one datagram a system call.
type portable struct {
	sock  *net.UDPConn
	raw   syscall.RawConn
	local netip.AddrPort
	await func(fd uintptr) bool // a closure made once, because one a read would be an allocation
	poll  poll
	ttl   sync.RWMutex // held alone while the socket's TTL is not its usual one
	counters
}

func newPortable(sock *net.UDPConn, raw syscall.RawConn, local netip.AddrPort) *portable {
	p := &portable{sock: sock, raw: raw, local: local}
	p.await = p.poll.readable
	return p
}

// Read is Conn's. It borrows memory only once there is a datagram.
func (p *portable) Read(a *Arena) ([]Burst, error) {
	for {
		a.Release()
		p.poll.reset()
		err := p.raw.Read(p.await)
		if err == nil {
			err = p.receive(a)
		}
		switch {
		case err == nil:
			return a.Bursts(), nil
		case errors.Is(err, net.ErrClosed):
			return nil, net.ErrClosed
		case errors.Is(err, os.ErrDeadlineExceeded):
			return nil, os.ErrDeadlineExceeded
		case isICMP(err):
			p.icmp.Add(1)
		default:
			return nil, &Error{Op: "read", Local: p.local, Err: bare(err)}
		}
	}
}

func (p *portable) receive(a *Arena) error {
	n, from, err := p.sock.ReadFromUDPAddrPort(a.Slot(0))
	if err != nil {
		return err
	}
	from = netip.AddrPortFrom(from.Addr().Unmap(), from.Port())
	a.Add(One(from, a.Slot(0)[:n]))
	return nil
}

// Write is Conn's.
func (p *portable) Write(b Burst) error {
	p.ttl.RLock()
	defer p.ttl.RUnlock()
	return p.write(b)
}

func (p *portable) write(b Burst) error {
	to := netip.AddrPortFrom(b.Addr.Addr().Unmap(), b.Addr.Port())
	n := b.Len()
	if to.Addr().Is4() != p.local.Addr().Is4() {
		p.failed.Add(uint64(n))
		return &Error{Op: "write", Local: p.local, Addr: b.Addr, Bytes: len(b.Buf), Err: errFamily}
	}
	if err := p.sock.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return net.ErrClosed
	}
	if n > 1 {
		p.oneByOne.Add(uint64(n))
	}
	for d := range b.All() {
		err := p.send(to, d)
		if errors.Is(err, net.ErrClosed) {
			return net.ErrClosed
		}
		if err != nil {
			p.lost(err, n)
			return &Error{Op: "write", Local: p.local, Addr: b.Addr, Bytes: len(b.Buf), Err: bare(err)}
		}
		n--
	}
	return nil
}

// send writes one datagram; twice when an earlier one's ICMP error came in its
// way, or when the deadline of the burst passed while this goroutine waited for
// a processor and not for room.
func (p *portable) send(to netip.AddrPort, d []byte) error {
	_, err := p.sock.WriteToUDPAddrPort(d, to)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = p.sock.SetWriteDeadline(time.Now().Add(patience))
		if err == nil {
			_, err = p.sock.WriteToUDPAddrPort(d, to)
		}
		return err
	}
	if err == nil || !isICMP(err) && !isDenied(err) {
		return err
	}
	icmp := isICMP(err)
	_, err = p.sock.WriteToUDPAddrPort(d, to)
	if isRefused(err) {
		err = nil // not this datagram's: that one's answer is still to come
	}
	if icmp && err == nil {
		p.icmp.Add(1)
	}
	return err
}

// bare is the system's error without the addresses that package net puts
// around it, which Error says already.
func bare(err error) error {
	if op := (*net.OpError)(nil); errors.As(err, &op) {
		return op.Err
	}
	return err
}

func (p *portable) lost(err error, n int) {
	c := &p.failed
	switch {
	case isFull(err):
		c = &p.full
	case IsTooLarge(err):
		c = &p.tooLarge
	case isDenied(err):
		c = &p.denied
	case isUnreachable(err):
		c = &p.unreachable
	}
	c.Add(uint64(n))
}

// WriteTTL is TTLWriter's. It sets the socket's TTL for the while, since a TTL
// of one datagram's own is not to be had everywhere.
func (p *portable) WriteTTL(b Burst, ttl int) error {
	p.ttl.Lock()
	defer p.ttl.Unlock()
	get, set := p.hops()
	usual, err := get()
	if err == nil {
		err = set(ttl)
	}
	if err != nil {
		p.failed.Add(uint64(b.Len()))
		return &Error{Op: "set the TTL to write", Local: p.local, Addr: b.Addr, Bytes: len(b.Buf), Err: err}
	}
	return errors.Join(p.write(b), set(usual))
}

// hops are the functions that get and set the TTL or hop limit.
func (p *portable) hops() (get func() (int, error), set func(int) error) {
	if p.local.Addr().Is6() {
		c := ipv6.NewConn(p.sock)
		return c.HopLimit, c.SetHopLimit
	}
	c := ipv4.NewConn(p.sock)
	return c.TTL, c.SetTTL
}

// LocalAddr is Conn's.
func (p *portable) LocalAddr() netip.AddrPort { return p.local }

// SetReadDeadline is Conn's.
func (p *portable) SetReadDeadline(t time.Time) error { return p.sock.SetReadDeadline(t) }

// Close is Conn's; a Read that waits returns net.ErrClosed.
func (p *portable) Close() error {
	p.roll.leave(p)
	return p.sock.Close()
}

// Stats is StatsReader's.
func (p *portable) Stats() Stats { return p.stats() }
