package stream

import (
	"context"
	"time"
)

// dialing is what only the side has that opened a connection: it alone opens
// streams for it. The connection's mutex guards it.
type dialing struct {
	again    chan struct{} // there may be something to do
	known    bool          // the other side has answered once
	failures int           // streams in a row that came to nothing
	last     *link         // where the last was
	next     time.Time     // when to try that again
}

// pause is how long not to try l. Another link than the last one is tried at
// once.
func (d *dialing) pause(l *link) time.Duration {
	if l != d.last {
		d.last, d.failures = l, 0
		d.next = time.Time{}
	}
	now := time.Now()
	if wait := d.next.Sub(now); wait > 0 {
		return wait
	}
	d.next = now.Add(min(firstPause<<min(d.failures, 10), mostPause))
	d.failures++
	return 0
}

// look has the keeper look again.
func (d *dialing) look() {
	select {
	case d.again <- struct{}{}:
	default:
	}
}

// openWithin is how long a carrier may take to open a stream.
const openWithin = 10 * time.Second

// A stream that comes to nothing on a carrier that lives is tried again after
// firstPause, doubled up to the most.
const (
	firstPause = 20 * time.Millisecond
	mostPause  = 2 * time.Second
)

// keep keeps an opened connection on the carrier that serves its rule, until
// it is forgotten.
func (c *conn) keep() {
	for {
		l, changed := c.of.link(c.rule())
		pause := c.move(l)
		var timer <-chan time.Time
		if pause > 0 {
			timer = time.After(pause)
		}
		select {
		case <-changed:
		case <-c.dialing.again:
		case <-timer:
		case <-c.gone:
			return
		}
	}
}

// move takes the connection to a carrier if it isn't there. It returns after
// which time to try again, 0 for when something changes.
func (c *conn) move(l *link) time.Duration {
	if l == nil {
		if c.of.cfg.Need != nil {
			c.of.cfg.Need(c.rule())
		}
		return 0
	}
	c.mu.Lock()
	var pause time.Duration
	there := c.parted || c.current != nil && c.current.link == l
	if !there {
		pause = c.dialing.pause(l)
	}
	c.mu.Unlock()
	if there || pause > 0 {
		return pause
	}
	ctx, cancel := context.WithTimeout(c.of.ctx, openWithin)
	defer cancel()
	s, err := l.carrier.Open(ctx)
	if err != nil {
		return firstPause // and see what pause says then
	}
	c.attach(l, s)
	return 0
}

// attach goes on over a new stream.
func (c *conn) attach(l *link, s Stream) {
	c.of.hold(l)
	c.mu.Lock()
	if c.state == forgotten || c.request.Only != l.only { // its rule was narrowed meanwhile
		c.mu.Unlock()
		_ = s.Close()
		c.of.release(l)
		return
	}
	if c.dialing.known {
		c.of.counts.resumed.Add(1)
	}
	c.detach()
	c.attempt++
	m := c.request.connect()
	m.Instance, m.Id, m.Attempt = c.name.instance, c.name.id, c.attempt
	m.Resume, m.Received = c.dialing.known, c.in.received
	a := &attachment{conn: c, stream: s, link: l, first: appendMessage(nil, m)}
	a.ready = c.attempt == 1 // then it begins, and waits for no answer
	c.current = a
	c.kick()
	c.mu.Unlock()
	c.of.tasks.Go(func() { a.read(true) })
}
