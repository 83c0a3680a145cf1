package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/stream"
	"rendezvous/proto"
)

// publicStreams takes the connections of public TCP ports, over a carrier that
// this agent makes to its coordinator: the NATs here let nothing else in. What is
// open waits for the next carrier when one is lost.
type publicStreams struct {
	p     *publisher
	conns *stream.Conns
	wake  chan struct{} // look whether a carrier is wanted, and another one would be better
}

func newPublicStreams(p *publisher) *publicStreams {
	s := &publicStreams{p: p, wake: make(chan struct{}, 1)}
	s.conns = stream.New(stream.Config{Instance: p.a.instance, Accept: s.connect,
		Limits: stream.Limits{Connections: p.a.cfg.Public.MaxClients}})
	return s
}

// look makes run look at once.
func (s *publicStreams) look() { notice(s.wake) }

// connect makes a connection to a service for a client of its public port, and of
// no other service (stream.Config).
func (s *publicStreams) connect(ctx context.Context, r stream.Request) (net.Conn, error) {
	port := s.p.tcpPort(r.Service)
	if port == nil {
		return nil, fmt.Errorf("service %q has no public TCP port", ops.Plain(r.Service))
	}
	s.p.count(port, 1)
	conn, err := s.p.a.connector.Connect(ctx, r.Service, forward.Caller{
		Client: forward.Client{Addr: r.Client.Addr().Unmap()}, Only: port.target.Only, From: r.Client, To: r.Listen,
		Ended: func() { s.p.count(port, -1) },
	})
	if err != nil {
		s.p.count(port, -1)
		s.p.a.refusals.note(s.p.a, "public clients of "+port.service, err)
	}
	return conn, err
}

// tcpPort is the public TCP port of a service, nil where it has none.
func (p *publisher) tcpPort(service string) *publicPort {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range p.ports {
		if port.tcp && port.service == service {
			return port
		}
	}
	return nil
}

// count notes that a connection of a port began, or ended.
func (p *publisher) count(port *publicPort, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.a.tasks.wake()
	if port.connections += n; n > 0 {
		port.total++
	}
}

// wanted says whether there is a public TCP port that is not refused.
func (s *publicStreams) wanted() bool {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for _, port := range s.p.ports {
		if port.tcp && port.granted.GetRefused() == "" {
			return true
		}
	}
	return false
}

// run keeps a carrier as long as one is wanted, until ctx ends.
func (s *publicStreams) run(ctx context.Context) {
	defer s.conns.Close()
	var c *publicCarrier
	defer func() { c.close() }()
	wait := redialFirst
	for {
		var again <-chan time.Time
		var ended <-chan struct{}
		switch {
		case !s.wanted():
			c.close()
			c = nil
		case !c.serves(s.p.a.link):
			next, err := s.dial(ctx)
			if err == nil {
				s.conns.Use(next.Carrier)
				c, wait = next, redialFirst // Use closes the earlier one once it is drained
				break
			}
			if !errors.Is(err, errOffline) && ctx.Err() == nil {
				s.p.a.refusals.note(s.p.a, "a carrier for public TCP ports", err)
			}
			again = time.After(wait)
			wait = min(2*wait, redialMost)
		}
		if c != nil {
			ended = c.Done()
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-again:
		case <-ended:
			c.close()
			c = nil
		}
	}
}

// publicCarrier is a carrier, and how the coordinator was reached for it.
type publicCarrier struct {
	stream.Carrier
	over proto.Transport
}

// close ends the carrier; there may be none.
func (c *publicCarrier) close() {
	if c != nil {
		_ = c.Close()
	}
}

// serves says whether the carrier lives and is of the kind that the link is: a
// link that has moved to UDP found what is better for connections, too.
func (c *publicCarrier) serves(l *link) bool {
	if c == nil {
		return false
	}
	how, _, connected := l.standing()
	return !connected || how.over == c.over
}

// standing tells how the coordinator is reached, if it is.
func (l *link) standing() (how attempt, addr netip.AddrPort, connected bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == nil {
		return l.how, netip.AddrPort{}, false
	}
	return l.how, l.client.Addr, true
}

// dial makes a carrier by the way that the control connection has, on a socket of
// its own, so that neither waits for the other.
func (s *publicStreams) dial(ctx context.Context) (*publicCarrier, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	a := s.p.a
	how, addr, connected := a.link.standing()
	if !connected {
		return nil, errOffline
	}
	cert, err := a.id.Certificate()
	if err != nil {
		return nil, err
	}
	var c stream.Carrier
	switch pin := a.cfg.State.Coordinator().Pin; {
	case how.over == proto.Transport_TRANSPORT_TLS && a.cfg.Dialers.StreamsTLS != nil:
		c, err = a.cfg.Dialers.StreamsTLS(ctx, how.at, pin, cert)
	case how.over != proto.Transport_TRANSPORT_TLS && a.cfg.Dialers.Streams != nil:
		c, err = s.overQUIC(ctx, how.over, addr, cert)
	default:
		err = errors.New("this agent was set up without a way to carry connections from its coordinator")
	}
	if err != nil {
		return nil, err
	}
	return &publicCarrier{c, how.over}, nil
}

// overQUIC dials from a socket of its own, which ends with the carrier.
func (s *publicStreams) overQUIC(ctx context.Context, over proto.Transport, addr netip.AddrPort, cert tls.Certificate) (stream.Carrier, error) {
	a := s.p.a
	e, err := a.ownSocket(over, addr)
	if err != nil {
		return nil, err
	}
	a.tasks.start(func(context.Context) { e.read() })
	if o, ok := e.conn.(interface {
		Open(ctx context.Context, to netip.AddrPort) error
	}); ok {
		if err := o.Open(ctx, addr); err != nil {
			e.close()
			return nil, err
		}
	}
	pc := e.quic.open(e.conn, addr)
	hidden, err := a.cfg.State.Coordinator().Hide(pc)
	if err != nil {
		e.close()
		return nil, err
	}
	c, err := a.cfg.Dialers.Streams(ctx, hidden, addr, a.cfg.State.Coordinator().Pin, cert)
	if err != nil {
		e.close()
		return nil, err
	}
	a.tasks.start(func(context.Context) {
		<-c.Done()
		e.quic.shut(addr, pc)
		e.close()
	})
	return c, nil
}

// ownSocket opens a socket that can reach the coordinator's address, and nobody
// else uses.
func (a *Agent) ownSocket(over proto.Transport, addr netip.AddrPort) (*endpoint, error) {
	if over == proto.Transport_TRANSPORT_FAKE_TCP {
		conn, err := a.overFakeTCP(addr)
		if err != nil {
			return nil, err
		}
		return newEndpoint(conn, path.DirectFakeTCP, a.board), nil
	}
	conn, err := a.cfg.Host.Net.ListenUDP(netip.AddrPortFrom(dgram.Any(addr.Addr()), 0))
	if err != nil {
		return nil, fmt.Errorf("open a UDP socket: %w", err)
	}
	return newEndpoint(conn, path.DirectUDP, a.board), nil
}
