package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/stream"
)

// tcpDial is a local address whose connections lead to a service of the peer.
type tcpDial struct {
	of       *connections
	service  string
	asked    netip.AddrPort // to listen on; its port may be 0
	only     path.Kinds
	listener net.Listener
	ctx      context.Context // ends with close
	stop     context.CancelCauseFunc
	tasks    sync.WaitGroup

	// guarded by connections.mu
	told    path.Kinds // the rule that the service wants as well
	clients int
	refused string // why the last client was, empty once one was not
}

// errHungUp ends the connections of a dial.
var errHungUp = errors.New("hung up")

// listen opens a local address whose clients reach the peer's service. To
// listen again on the address of a living dial of the service, by the same
// rule, gives that one.
func (c *connections) listen(service string, at netip.AddrPort, only path.Kinds) error {
	if c.p.a.cfg.Host.Local == nil {
		return errors.New("no TCP connections can be made here")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.dials {
		if d.service == service && d.asked == at && d.only == only {
			return nil
		}
	}
	if c.closed {
		return stream.ErrClosed
	}
	listener, err := c.p.a.cfg.Host.Local.ListenTCP(at)
	if err != nil {
		return fmt.Errorf("listen on tcp://%v for clients of %q: %w; is the address this host's, and the port free?", at, service, err)
	}
	d := &tcpDial{of: c, service: service, asked: at, only: only, listener: listener}
	d.ctx, d.stop = context.WithCancelCause(c.p.a.tasks.ctx)
	c.dials = append(c.dials, d)
	d.tasks.Go(d.accept)
	return nil
}

func (d *tcpDial) accept() {
	path.Accept(d.ctx, d.listener, func(error) {}, func(client net.Conn) { d.tasks.Go(func() { d.serve(client) }) })
}

// serve carries one client's connection.
func (d *tcpDial) serve(client net.Conn) {
	c := d.of
	c.mu.Lock()
	d.clients++
	r := stream.Request{Service: d.service, Only: d.rule(), Client: dgram.AddrOf(client.RemoteAddr()), Listen: dgram.AddrOf(client.LocalAddr())}
	c.mu.Unlock()
	err := d.reach(r.Only)
	if err != nil {
		dgram.Reset(client)
	} else {
		err = c.out.Carry(d.ctx, client, r)
	}
	d.served(err)
}

// reach waits until there is a carrier. Under a rule its paths may be looked
// for only now.
func (d *tcpDial) reach(only path.Kinds) error {
	ctx, cancel := context.WithTimeout(d.ctx, ruledWithin)
	defer cancel()
	for {
		err := d.of.carrier(ctx, only)
		as := d.of.p.association()
		if err == nil || only == 0 || as == nil || !as.Ready() || as.Serves(only) {
			return err
		}
		if !path.Wait(ctx, retryFirst) {
			return err
		}
	}
}

// served notes how a client fared, for status.
func (d *tcpDial) served(err error) {
	var refused *stream.RefusedError
	var reset *stream.ResetError
	why := ""
	switch {
	case err == nil, errors.As(err, &reset), errors.Is(err, errHungUp), d.ctx.Err() != nil: // it was carried
	case errors.As(err, &refused):
		why = refused.Reason
	default:
		why = err.Error()
	}
	c := d.of
	c.mu.Lock()
	news := why != "" && why != d.refused
	d.clients--
	d.refused = why
	c.mu.Unlock()
	if news {
		c.p.a.cfg.Log.Warn().Str("peer", c.p.name).Str("service", d.service).Str("why", why).Msg("a client's connection was refused")
	}
}

// rule is that of the dial and of the service, as far as that is known. The
// lock of connections is held.
func (d *tcpDial) rule() path.Kinds {
	if both, ok := d.only.Narrow(d.told); ok {
		return both
	}
	return d.only // the peer refuses
}

// close stops listening and resets the clients.
func (d *tcpDial) close() {
	d.stop(errHungUp)
	_ = d.listener.Close()
	d.tasks.Wait()
}

// hangup closes the dial of a service that listens there, if there is one.
func (c *connections) hangup(service string, at netip.AddrPort) {
	c.mu.Lock()
	var of []*tcpDial
	c.dials = slices.DeleteFunc(c.dials, func(d *tcpDial) bool {
		gone := d.service == service && dgram.AddrOf(d.listener.Addr()) == at
		if gone {
			of = append(of, d)
		}
		return gone
	})
	c.mu.Unlock()
	for _, d := range of {
		d.close()
	}
}

// of are the dials of a service.
func (c *connections) of(service string) (out []living) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.dials {
		if d.service == service {
			out = append(out, living{asked: Dial{Peer: c.p.name, Service: service, TCP: true, Host: d.asked.Addr().String(), Port: d.asked.Port()}, at: dgram.AddrOf(d.listener.Addr())})
		}
	}
	return out
}

// status tells of the dials.
func (c *connections) status() (out []DialStatus) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.dials {
		at := dgram.AddrOf(d.listener.Addr())
		out = append(out, DialStatus{Peer: c.p.name, Service: d.service, Flows: d.clients, Error: d.refused, Paths: d.rule().Names(),
			Listen: Dial{TCP: true, Host: at.Addr().String(), Port: at.Port(), Only: d.only}.URL()})
	}
	return out
}

func (c *connections) dialed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.dials) > 0
}
