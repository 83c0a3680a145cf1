package stream

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"rendezvous/internal/path"
)

// ErrNoCarrier ends a connection that has been without a carrier for too long.
var ErrNoCarrier = errors.New("no path to the other side carried it for too long")

// ErrClosed ends a connection of which a Conns was closed.
var ErrClosed = errors.New("the agent stops carrying connections")

// ErrIdle ends a connection on which nothing crossed for too long.
var ErrIdle = errors.New("nothing crossed it for too long")

var (
	errEnd     = errors.New("the peer ended a connection before it was complete")
	errRule    = errors.New("the connection's rule is not that of its carrier")
	errTooMuch = errors.New("the peer sent more than it was allowed")
	errUnknown = errors.New("this connection is not known here: the agent was restarted, or it was without a path for too long")
)

// RefusedError says that the other side did not take a connection.
type RefusedError struct {
	Reason string
	// Only is the rule of the service, where that is what refused: it may be
	// tried again under this rule.
	Only path.Kinds
}

func (e *RefusedError) Error() string { return e.Reason }

// ResetError says which side broke a connection off.
type ResetError struct {
	Reason string
	Remote bool // the other one
}

func (e *ResetError) Error() string {
	if e.Remote {
		return "the other side reset the connection: " + e.Reason
	}
	return e.Reason
}

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// localError tells of the connection to the client or the service.
func localError(c *conn, err error) error {
	who := "the service's connection"
	if c.dialing != nil {
		who = "the client's connection"
	}
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // without addresses, which are nobody's business over there
	}
	return &ResetError{Reason: fmt.Sprintf("%s: %v", who, err)}
}

// finish ends a connection of which both directions have ended.
func (c *conn) finish() {
	c.mu.Lock()
	if c.state != running {
		c.mu.Unlock()
		return
	}
	c.state = finished
	c.linger()
	known := c.parted && c.current == nil
	c.mu.Unlock()
	_ = c.local.Close()
	close(c.over)
	if known {
		c.forget()
	}
}

// goneOn ends the connection if a new stream began with what was missing for
// that.
func (c *conn) goneOn() {
	c.mu.Lock()
	over := c.ended()
	c.mu.Unlock()
	if over {
		c.finish()
	}
}

// fail breaks a connection. With tell the other side hears of it.
func (c *conn) fail(why error, tell bool) {
	c.mu.Lock()
	if c.state != running {
		c.mu.Unlock()
		return
	}
	c.state, c.why = broken, why
	c.out.abandon()
	c.in.abandon()
	if tell {
		c.kick()
	}
	c.linger()
	local, known := c.local, c.parted
	c.mu.Unlock()
	c.of.counts.broken.Add(1)
	local.reset()
	close(c.over)
	if known {
		c.forget()
	}
}

// broke ends a connection for what the other side sent.
func (c *conn) broke(a *attachment, why error) {
	var reset *ResetError
	remote := errors.As(why, &reset) && reset.Remote
	if !remote {
		c.of.counts.malformed.Add(1)
	}
	c.fail(why, !remote)
	if remote {
		_ = a.stream.CloseWrite()
		c.forget()
	}
}

// refused ends a connection that the other side does not take, or does not know
// any more.
func (c *conn) refused(a *attachment, why *RefusedError) {
	_ = a.stream.CloseWrite()
	if c.narrow(why) {
		return
	}
	c.mu.Lock()
	done := c.state == running && c.complete()
	if done {
		c.parted = true // it has all, and has forgotten
		c.detach()
	} else if c.state == running {
		c.of.counts.refused.Add(1)
	}
	c.mu.Unlock()
	if !done {
		c.fail(why, false)
		c.forget()
	}
}

// linger has the connection forgotten when the other side had its time to hear
// of its end. Caller holds c.mu.
func (c *conn) linger() { c.wait(c.of.cfg.NoCarrier + lingerFor) }

// wait has waited called in a while. Caller holds c.mu.
func (c *conn) wait(d time.Duration) {
	if c.timers.waiting == nil {
		c.timers.waiting = time.AfterFunc(d, c.waited)
	} else {
		c.timers.waiting.Reset(d)
	}
}

// settle notes that both ends know where they are. Caller holds c.mu.
func (c *conn) settle(a *attachment) {
	a.settled = true
	if c.state == running && c.timers.waiting != nil {
		c.timers.waiting.Stop()
	}
}

func (c *conn) waited() {
	c.mu.Lock()
	live, done := c.state == running, c.complete()
	c.mu.Unlock()
	if live && done {
		return // the local connection still has to take the rest
	}
	if live {
		c.fail(ErrNoCarrier, false)
	}
	c.forget()
}

// lose takes an attachment from the connection: its stream has ended.
func (c *conn) lose(a *attachment, why error) {
	c.mu.Lock()
	if c.current != a {
		c.mu.Unlock()
		return
	}
	c.detach()
	over := c.state == broken && a.lastSaid && isEOF(why) // they know
	if c.state == running && a.settled {
		c.wait(c.of.cfg.NoCarrier)
	}
	d := c.dialing
	c.mu.Unlock()
	if over {
		c.forget()
		return
	}
	if d != nil {
		d.look()
		c.of.need(c.rule())
	}
}

// detach gives the current attachment up. Caller holds c.mu.
func (c *conn) detach() {
	a := c.current
	if a == nil {
		return
	}
	c.current = nil
	// Closing may wait for what is stuck below.
	c.of.tasks.Go(func() {
		_ = a.stream.Close()
		c.of.release(a.link)
	})
}

// forget ends what is left of a connection that is running no more.
func (c *conn) forget() {
	c.mu.Lock()
	if c.state == forgotten {
		c.mu.Unlock()
		return
	}
	c.state = forgotten
	c.detach()
	c.out.abandon()
	c.in.abandon()
	for _, t := range []*time.Timer{c.timers.ack, c.timers.waiting, c.timers.idle} {
		if t != nil {
			t.Stop()
		}
	}
	c.of.windows.Add(-int64(c.in.window))
	c.mu.Unlock()
	close(c.gone)
	c.of.remove(c)
}

// watchIdle begins to look whether anything crosses. Caller holds c.mu.
func (c *conn) watchIdle() {
	if d := c.of.cfg.Idle; d > 0 {
		c.timers.idle = time.AfterFunc(d, c.idled)
	}
}

func (c *conn) idled() {
	c.mu.Lock()
	crossed := c.in.received + c.out.next
	idle := crossed == c.timers.seen && c.state == running
	c.timers.seen = crossed
	if !idle && c.state == running {
		c.timers.idle.Reset(c.of.cfg.Idle)
	}
	c.mu.Unlock()
	if idle {
		c.fail(ErrIdle, true)
	}
}
