package stream

import (
	"net"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// firstWindow is what either side may send before the first acknowledgement,
// in bytes.
const firstWindow = 128 << 10

// state is how far a connection has come.
type state uint8

const (
	running  state = iota
	finished       // both directions have ended well
	broken         // by one of the two local connections, or by us
	forgotten
)

// ackAfter is how long an acknowledgement of little data waits for more.
const ackAfter = 25 * time.Millisecond

// lingerFor is how much longer than it may be without a carrier a connection
// that has ended is remembered, for the sake of the other side.
const lingerFor = 30 * time.Second

// name tells a connection from all others for as long as it lives.
type name struct{ instance, id uint64 }

// conn is one TCP connection of a client to a service, seen from one of the
// two ends.
type conn struct {
	of      *Conns
	name    name
	request Request
	dialing *dialing      // nil on the accepting side
	ready   chan struct{} // closed when the service is reached; nil on the opening side
	over    chan struct{} // closed when it is running no more
	gone    chan struct{} // closed when it is forgotten

	mu      sync.Mutex
	local   local
	out     outgoing
	in      incoming
	current *attachment
	attempt uint32 // of the last attachment
	state   state
	parted  bool  // the other side is done with it, or has forgotten it
	why     error // it is not running
	timers  timers
}

// timers are those of a connection; each is nil before its first use.
type timers struct {
	ack     *time.Timer
	acking  bool        // ack runs
	waiting *time.Timer // no carrier, or the end
	idle    *time.Timer
	seen    uint64 // bytes that had crossed when idle was last looked at
}

// local is the connection to the client or to the service.
type local struct {
	net.Conn
	now *nowWriter // nil where a write always waits
}

func newLocal(c net.Conn) local { return local{c, newNowWriter(c)} }

// closeWrite ends our direction, where the connection knows that.
func (l local) closeWrite() {
	if c, ok := l.Conn.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// reset closes it so that its other end sees that it broke.
func (l local) reset() {
	if l.Conn != nil {
		dgram.Reset(l.Conn)
	}
}

func (o *Conns) newConn(n name, r Request) *conn {
	c := &conn{of: o, name: n, request: r, over: make(chan struct{}), gone: make(chan struct{})}
	c.out.room.L = &c.mu
	c.out.limit = firstWindow
	c.out.total = &o.retained
	c.in.limit, c.in.window = firstWindow, firstWindow
	return c
}

// pump carries what the local connection has to say, until it has ended.
func (c *conn) pump() {
	for {
		c.mu.Lock()
		b, into := c.out.space(c.of.retain)
		c.mu.Unlock()
		if b == nil {
			return
		}
		n, err := c.local.Read(into)
		c.of.counts.sent.Add(uint64(n))
		c.mu.Lock()
		c.out.filled(b, n, len(into))
		if err != nil && c.state == running && isEOF(err) {
			c.out.finish()
		}
		a := c.current
		write := c.due(a)
		c.mu.Unlock()
		if write {
			a.write()
		}
		if err != nil {
			if !isEOF(err) {
				c.fail(localError(c, err), true)
			}
			return
		}
	}
}

// arrived takes what came on an attachment; false ends its reader.
func (c *conn) arrived(a *attachment, d *decoder, b []byte, from *slab) bool {
	c.mu.Lock()
	if c.current != a {
		c.mu.Unlock()
		return false
	}
	if err := c.parse(a, d, b, from); err != nil {
		c.mu.Unlock()
		c.broke(a, err)
		return false
	}
	c.acknowledge(a)
	deliver := c.state == running && c.in.begins()
	over, parted := c.ended(), c.parted
	if c.complete() {
		c.kick() // for the last piece
	}
	c.mu.Unlock()
	if over {
		c.finish()
	}
	if deliver && !c.deliverNow() {
		c.of.tasks.Go(c.deliver)
	}
	if parted {
		c.part(a)
	}
	return !parted
}

// parse takes the pieces that came, or parts of them. Caller holds c.mu.
func (c *conn) parse(a *attachment, d *decoder, b []byte, from *slab) error {
	for {
		p, rest, ok, err := d.next(b)
		if ok {
			err = c.accept(a, p, from)
		}
		if !ok || err != nil {
			return err
		}
		b = rest
	}
}

// accept takes one piece. Caller holds c.mu.
func (c *conn) accept(a *attachment, p piece, from *slab) error {
	switch p.kind {
	case pieceData:
		if c.state != running {
			return nil // nobody is there to take it
		}
		if !c.in.add(p.data, from) {
			return errTooMuch
		}
	case pieceFIN:
		if c.in.fin {
			return errTooMuch
		}
		c.in.fin = true
		c.in.received++
	case pieceAck:
		if p.received > a.at.off {
			return errAttachment
		}
		if c.state == running {
			c.out.acknowledge(p.received)
			c.out.allow(p.limit)
		}
	case pieceEnd:
		if !c.complete() && c.state == running {
			return errEnd
		}
		c.parted = true
	case pieceReset:
		return &ResetError{Reason: p.reason, Remote: true}
	}
	return nil
}

// acknowledge has the other side told of what came: at once where that is
// much, else soon. Caller holds c.mu.
func (c *conn) acknowledge(a *attachment) {
	if w := c.in.grown(c.of.limits.Window); w > c.in.window && c.of.grant(w-c.in.window) {
		c.in.window = w
	}
	switch {
	case c.in.due() || c.in.fin && c.in.told < c.in.received:
		a.ackDue = true
		c.kick()
	case c.in.told < c.in.received && !a.ackDue && !c.timers.acking:
		c.timers.acking = true
		if c.timers.ack == nil {
			c.timers.ack = time.AfterFunc(ackAfter, c.ackSoon)
		} else {
			c.timers.ack.Reset(ackAfter)
		}
	}
}

func (c *conn) ackSoon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timers.acking = false
	if c.current != nil && c.in.told < c.in.received {
		c.current.ackDue = true
		c.kick()
	}
}

// deliverNow writes to the local connection what it takes without waiting. It
// says whether that was all.
func (c *conn) deliverNow() bool {
	if c.local.now == nil {
		return false
	}
	for {
		c.mu.Lock()
		b := c.in.first()
		if b == nil {
			return c.deliveredAll() // unlocks
		}
		c.mu.Unlock()
		n, err := c.local.now.write(b)
		c.mu.Lock()
		if err == nil {
			c.wrote(n)
		}
		c.mu.Unlock()
		if err != nil || n < len(b) {
			return false // the other way finds the error too
		}
	}
}

// deliver writes to the local connection what there is, as the one that set
// in.writing.
func (c *conn) deliver() {
	for {
		c.mu.Lock()
		b := c.in.first()
		if b == nil {
			c.deliveredAll() // unlocks
			return
		}
		c.mu.Unlock()
		n, err := c.local.Write(b)
		c.mu.Lock()
		c.wrote(n)
		if err != nil {
			c.in.writing = false
			if c.state != running {
				c.in.abandon()
			}
			c.mu.Unlock()
			c.fail(localError(c, err), true)
			return
		}
		c.mu.Unlock()
	}
}

// wrote notes what the local connection took, and has the other side told when
// there is much more room. Caller holds c.mu.
func (c *conn) wrote(n int) {
	c.in.wrote(n)
	c.of.counts.received.Add(uint64(n))
	if a := c.current; a != nil && c.state == running && c.in.due() {
		a.ackDue = true
		c.kick()
	}
}

// deliveredAll ends a delivery. It unlocks c.mu and returns true.
func (c *conn) deliveredAll() bool {
	c.in.writing = false
	if c.in.fin && !c.in.closed && c.state == running {
		c.in.closed = true
		c.local.closeWrite()
	}
	over := c.ended()
	c.mu.Unlock()
	if over {
		c.finish()
	}
	return true
}

// ended says whether both directions have. Caller holds c.mu.
func (c *conn) ended() bool { return c.state == running && c.in.closed && c.out.ended() }
