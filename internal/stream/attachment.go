package stream

import (
	"errors"
	"time"

	"rendezvous/proto"
)

// attachment is a connection's stay on one stream of a carrier. The
// connection's mutex guards it, but for what its writer and its reader alone
// use.
type attachment struct {
	conn    *conn
	stream  Stream
	link    *link
	ready   bool   // we know where to go on
	settled bool   // so do both ends
	at      cursor // ready
	first   []byte // Connect or Connected, until it is sent

	// writing says that a goroutine writes to the stream. It goes on until
	// there is nothing to send, so nobody needs to wait for it.
	writing  bool
	dead     bool // a write came to nothing
	ackDue   bool
	lastSaid bool // the last piece, which the end of our direction follows

	scratch [headerSize + mostReason]byte // the writer's
}

// greetWithin is how long the other side may take for the answer to Connect:
// its service must be reached meanwhile.
const greetWithin = 20 * time.Second

// write sends what there is to send, as the one that set a.writing.
func (a *attachment) write() {
	c := a.conn
	c.mu.Lock()
	for {
		b, from := c.toSend(a)
		if b == nil {
			a.writing = false
			over := a.lastSaid && c.current == a
			c.mu.Unlock()
			if over {
				_ = a.stream.CloseWrite()
				c.part(a)
			}
			return
		}
		c.mu.Unlock()
		_, err := a.stream.Write(b)
		c.mu.Lock()
		if from != nil {
			from.done(1)
		}
		if err != nil {
			a.writing, a.dead = false, true
			c.mu.Unlock()
			c.lose(a, err)
			return
		}
	}
}

// toSend is what the attachment's writer sends next; nil when it has nothing to
// do. Caller holds c.mu.
func (c *conn) toSend(a *attachment) ([]byte, *block) {
	switch {
	case c.current != a || a.lastSaid || a.dead:
		return nil, nil
	case a.first != nil:
		b := a.first
		a.first = nil
		return b, nil
	case !a.ready:
		return nil, nil
	case a.ackDue || c.complete() && c.in.told < c.in.received:
		a.ackDue = false
		c.in.told, c.in.limit = c.in.received, c.in.open()
		return appendAck(a.scratch[:0], c.in.told, c.in.limit), nil
	}
	if c.state == broken {
		a.lastSaid = true
		return appendReset(a.scratch[:0], c.why.Error()), nil
	}
	if c.complete() {
		a.lastSaid = true
		return appendHeader(a.scratch[:0], pieceEnd, 0), nil
	}
	return c.out.take(&a.at)
}

// complete says whether both sides have all of the other's: the stream is of no
// more use. The local connection may not have taken it yet. Caller holds c.mu.
func (c *conn) complete() bool { return c.in.fin && c.out.ended() }

// part gives up a stream on which both sides have said their last.
func (c *conn) part(a *attachment) {
	c.mu.Lock()
	both := c.current == a && c.parted && a.lastSaid
	if both {
		c.detach()
	}
	over := both && c.state != running
	c.mu.Unlock()
	if over {
		c.forget()
	}
}

// due says whether the attachment has something to send and nobody who does.
// Who gets true must call write. Caller holds c.mu.
func (c *conn) due(a *attachment) bool {
	if a == nil || a.writing || c.current != a {
		return false
	}
	a.writing = true
	return true
}

// kick has what is due sent by a goroutine of its own. Caller holds c.mu.
func (c *conn) kick() {
	if a := c.current; c.due(a) {
		c.of.tasks.Go(a.write)
	}
}

var errAttachment = errors.New("the peer acknowledged what it was not sent")

// read takes what comes until the stream ends. answer says that a Connected
// comes first.
func (a *attachment) read(answer bool) {
	c := a.conn
	if answer && !a.readAnswer() {
		return
	}
	var d decoder
	from := &slab{owner: a, buf: lend(false), uses: 1}
	defer func() {
		c.mu.Lock()
		from.done()
		c.mu.Unlock()
	}()
	for {
		at := len(from.buf)
		n, err := a.stream.Read(from.buf[at:cap(from.buf)])
		if n > 0 {
			c.of.heard.Add(1)
			full := n == cap(from.buf)-at
			from.buf = from.buf[:at+n]
			if !c.arrived(a, &d, from.buf[at:], from) {
				return
			}
			from = c.nextSlab(from, full, n)
		}
		if err != nil {
			c.lose(a, err)
			return
		}
	}
}

// nextSlab is the memory for the next read.
func (c *conn) nextSlab(s *slab, full bool, n int) *slab {
	c.mu.Lock()
	defer c.mu.Unlock()
	large := cap(s.buf) == largeBlock
	want := full || large && n > smallBlock
	if s.uses == 1 && want == large {
		s.buf = s.buf[:0]
		return s
	}
	if want == large && cap(s.buf)-len(s.buf) >= cap(s.buf)/4 {
		return s
	}
	s.done()
	return &slab{owner: s.owner, buf: lend(want), uses: 1}
}

// readAnswer reads Connected and goes on where the peer says.
func (a *attachment) readAnswer() bool {
	c := a.conn
	var m proto.Connected
	_ = a.stream.SetReadDeadline(time.Now().Add(greetWithin))
	if err := readMessage(a.stream, &m); err != nil {
		c.lose(a, err)
		return false
	}
	c.of.heard.Add(1)
	_ = a.stream.SetReadDeadline(time.Time{})
	if m.GetRefused() != "" {
		only, _ := kindsOf(m.GetPaths())
		c.refused(a, &RefusedError{Reason: brief(m.GetRefused()), Only: only})
		return false
	}
	c.mu.Lock()
	if c.current != a {
		c.mu.Unlock()
		return false
	}
	c.dialing.failures, c.dialing.known = 0, true
	if !a.ready && !c.out.holds(m.GetReceived()) {
		c.mu.Unlock()
		c.fail(errAttachment, true)
		return false
	}
	if !a.ready {
		c.goOn(a, m.GetReceived())
	}
	c.settle(a)
	c.kick()
	c.mu.Unlock()
	c.goneOn()
	return true
}

// goOn has the attachment send what the other side has not received. Caller
// holds c.mu.
func (c *conn) goOn(a *attachment, received uint64) {
	c.out.acknowledge(received)
	a.at = c.out.seek(received)
	a.ready = true
	// The last acknowledgement may have been lost.
	a.ackDue = c.in.received > 0 || c.in.limit > firstWindow
}
