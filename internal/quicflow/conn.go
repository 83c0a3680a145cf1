package quicflow

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// prefix is what stands before a QUIC packet in a datagram of the flow: one
// byte, the rule that it was sent under, as a path.Kinds. Who answers obeys it
// too. See proto/SPEC.md.
const prefix = 1

// conn is a net.PacketConn for QUIC whose datagrams are the session's. Where
// QUIC writes one packet at a time they are gathered into bursts while the burst
// before is sealed and sent.
type conn struct {
	send func(only path.Kinds, b dgram.Burst)
	in   inbox
	// most is how large a datagram may be, under each rule: one that is larger
	// asks whether the path takes it.
	most [path.AllKinds + 1]atomic.Int32

	flushed sync.WaitGroup

	mu       sync.Mutex
	change   sync.Cond // there is something to send, or room, or the end
	pending  []parcel
	bytes    int
	spare    [][]byte
	flushing bool // since the first packet that was written alone
	closed   bool
}

// parcel is datagrams of one size under one rule.
type parcel struct {
	only path.Kinds
	buf  []byte
	size int
}

// maxPending bounds what waits to be sealed, in bytes, and maxParcels in how
// many parcels: then QUIC waits.
const (
	maxPending = 4 * dgram.MaxBytes
	maxParcels = 16
)

func newConn(send func(path.Kinds, dgram.Burst)) *conn {
	c := &conn{send: send}
	c.change.L = &c.mu
	c.in.init()
	return c
}

// WriteTo is net.PacketConn's, for an address of addrOf.
func (c *conn) WriteTo(b []byte, addr net.Addr) (int, error) {
	only := ruleOf(addr)
	if c.tooLarge(only, len(b)) {
		return len(b), nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for (c.bytes >= maxPending || len(c.pending) >= maxParcels) && !c.closed {
		c.change.Wait()
	}
	if c.closed {
		return 0, net.ErrClosed
	}
	if !c.flushing {
		c.flushing = true
		c.flushed.Go(c.flush)
	}
	if !c.join(only, b) {
		p := parcel{only: only, buf: c.blank(), size: prefix + len(b)}
		p.buf = append(append(p.buf, byte(only)), b...)
		c.pending = append(c.pending, p)
	}
	c.bytes += prefix + len(b)
	c.change.Broadcast()
	return len(b), nil
}

// tooLarge says whether a packet must be lost, as it would be on a path without
// a session. No limit is set under a rule before its first connection.
func (c *conn) tooLarge(only path.Kinds, size int) bool {
	most := c.most[only].Load()
	return most > 0 && prefix+size > int(most)
}

// join lets b ride in the last parcel.
func (c *conn) join(only path.Kinds, b []byte) bool {
	if len(c.pending) == 0 {
		return false
	}
	last := &c.pending[len(c.pending)-1]
	size := prefix + len(b)
	if last.only != only || len(last.buf)%last.size != 0 || size > last.size || len(last.buf)+size > room(last.size) {
		return false
	}
	last.buf = append(append(last.buf, byte(only)), b...)
	return true
}

// sealing is more than sealing adds to a datagram: a burst must still fit into
// one write when it is sealed.
const sealing = 32

// room is how many bytes of datagrams of that size one burst may have.
func room(size int) int {
	return min(dgram.MaxSegments, dgram.MaxBytes/(size+sealing)) * size
}

func (c *conn) blank() []byte {
	if n := len(c.spare); n > 0 {
		b := c.spare[n-1]
		c.spare = c.spare[:n-1]
		return b
	}
	return make([]byte, 0, dgram.MaxBytes)
}

// flush sends what was written until the conn is shut.
func (c *conn) flush() {
	var list, spare []parcel
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		for len(c.pending) == 0 && !c.closed {
			c.change.Wait()
		}
		if len(c.pending) == 0 {
			return
		}
		list, c.pending = c.pending, spare[:0]
		c.bytes = 0
		c.change.Broadcast()
		c.mu.Unlock()
		for _, p := range list {
			c.send(p.only, dgram.Burst{Buf: p.buf, Size: p.size})
		}
		c.mu.Lock()
		for _, p := range list {
			c.spare = append(c.spare, p.buf[:0])
		}
		spare = list
	}
}

// deliver takes a burst from the peer. It never blocks.
func (c *conn) deliver(b dgram.Burst) { c.in.put(b) }

// ReadFrom is net.PacketConn's.
func (c *conn) ReadFrom(b []byte) (int, net.Addr, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	if err := c.in.wait(); err != nil {
		return 0, nil, err
	}
	n, addr, _ := c.in.pop(b)
	return n, addr, nil
}

// shut ends ReadFrom, and waits until what was written is sent.
func (c *conn) shut() {
	c.mu.Lock()
	c.closed = true
	c.change.Broadcast()
	c.mu.Unlock()
	c.in.close()
	c.flushed.Wait()
}

// Close is net.PacketConn's. The End ends the rest.
func (c *conn) Close() error {
	c.in.close()
	return nil
}

// LocalAddr stands for us.
func (c *conn) LocalAddr() net.Addr { return addrOf(0) }

// SyscallConn is of a socket that QUIC inspects: one that may be told not to
// fragment, without which it would not look for the size of packets.
func (c *conn) SyscallConn() (syscall.RawConn, error) { return blank() }

// SetReadDeadline is net.PacketConn's.
func (c *conn) SetReadDeadline(t time.Time) error { return c.in.setDeadline(t) }

// SetDeadline is SetReadDeadline.
func (c *conn) SetDeadline(t time.Time) error { return c.in.setDeadline(t) }

// SetWriteDeadline does nothing: a write waits for the sealing alone.
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// SetReadBuffer does nothing: the session's sockets have theirs.
func (c *conn) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing.
func (c *conn) SetWriteBuffer(int) error { return nil }
