package stream

import (
	"context"
	"errors"
	"time"

	"rendezvous/proto"
)

const (
	// connectWithin is how long a stream may take for its first message.
	connectWithin = 10 * time.Second
	// acceptWithin is how long Accept may take to reach the service.
	acceptWithin = 15 * time.Second
)

// serve takes a stream that the other side opened.
func (o *Conns) serve(l *link, s Stream) {
	o.hold(l)
	a := &attachment{stream: s, link: l}
	var m proto.Connect
	_ = s.SetReadDeadline(time.Now().Add(connectWithin))
	if err := readMessage(s, &m); err != nil {
		o.counts.malformed.Add(1)
		o.dismiss(a)
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	c, err := o.connection(&m, l)
	if err == nil {
		err = c.take(a, &m)
	}
	switch {
	case errors.Is(err, errStale):
		o.dismiss(a)
	case err != nil:
		o.refuse(a, err)
	default:
		a.conn.goneOn()
		a.read(false)
	}
}

var errStale = errors.New("a later stream has taken this one's place")

// connection finds the connection that a stream is for, or makes it.
func (o *Conns) connection(m *proto.Connect, l *link) (*conn, error) {
	r, err := requestOf(m)
	switch {
	case err != nil:
		return nil, err
	case r.Only != l.only:
		return nil, errRule
	}
	c := o.newConn(name{m.GetInstance(), m.GetId()}, r)
	c.ready = make(chan struct{})
	known, err := o.add(c, !m.GetResume())
	switch {
	case err != nil:
		return nil, err
	case known != nil && known.dialing != nil:
		return nil, errUnknown // one of ours: the peer can't have opened it
	case known != nil:
		select {
		case <-known.ready:
			return known, nil
		case <-known.gone:
			return nil, errUnknown
		}
	}
	if err := c.reach(); err != nil {
		c.fail(err, false)
		c.forget()
		return nil, err
	}
	return c, nil
}

// reach dials the service.
func (c *conn) reach() error {
	o := c.of
	if o.cfg.Accept == nil {
		return &RefusedError{Reason: "no services are offered here"}
	}
	select {
	case o.dialing <- struct{}{}:
		defer func() { <-o.dialing }()
	default:
		return &RefusedError{Reason: "too many connections to services are being made at once"}
	}
	ctx, cancel := context.WithTimeout(o.ctx, acceptWithin)
	defer cancel()
	service, err := o.cfg.Accept(ctx, c.request)
	if err != nil {
		return err
	}
	c.mu.Lock()
	if c.state != running {
		c.mu.Unlock()
		_ = service.Close()
		return ErrClosed
	}
	c.local = newLocal(service)
	c.wait(o.cfg.NoCarrier)
	c.watchIdle()
	c.mu.Unlock()
	o.counts.accepted.Add(1)
	close(c.ready)
	o.tasks.Go(c.pump)
	return nil
}

// take goes on over a stream that the opener opened for the connection.
func (c *conn) take(a *attachment, m *proto.Connect) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.state == broken:
		return c.why
	case c.state == forgotten:
		return errUnknown
	case m.GetAttempt() <= c.attempt:
		return errStale
	case !c.out.holds(m.GetReceived()):
		return errAttachment
	}
	if m.GetAttempt() > 1 {
		c.of.counts.resumed.Add(1)
	}
	c.detach()
	c.attempt = m.GetAttempt()
	a.conn = c
	a.first = appendMessage(nil, &proto.Connected{Received: c.in.received})
	c.goOn(a, m.GetReceived())
	c.current = a
	c.settle(a)
	c.kick()
	return nil
}

// refuse says why there will be no connection.
func (o *Conns) refuse(a *attachment, why error) {
	o.counts.refused.Add(1)
	m := &proto.Connected{Refused: brief(why.Error())}
	if r, ok := errors.AsType[*RefusedError](why); ok {
		m.Paths = r.Only.Names()
	}
	_ = a.stream.SetWriteDeadline(time.Now().Add(connectWithin))
	if _, err := a.stream.Write(appendMessage(nil, m)); err == nil {
		_ = a.stream.CloseWrite()
	}
	o.dismiss(a)
}

// dismiss closes a stream that carries no connection.
func (o *Conns) dismiss(a *attachment) {
	_ = a.stream.Close()
	o.release(a.link)
}
