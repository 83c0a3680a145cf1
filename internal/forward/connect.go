package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	proxyproto "github.com/pires/go-proxyproto"

	"rendezvous/internal/dgram"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
)

// Connector connects to the tcp:// services that this agent exposes.
type Connector struct {
	Services *Services
	TCP      dgram.Streams
	Aliases  *Aliases
	Resolve  Resolve
}

// Caller is who wants a connection.
type Caller struct {
	Client
	// Only is the kinds of path that it comes over; empty: any.
	Only path.Kinds
	// From is the client's address and To the one that it connected to, for a
	// service with ?proxy; either may be unknown.
	From, To netip.AddrPort
	// Ended is called once a connection that was made is closed; may be nil.
	Ended func()
}

// RuleError says that a service allows fewer kinds of path than its caller
// comes over.
type RuleError struct {
	Service string
	Only    path.Kinds // what both allow
}

func (e *RuleError) Error() string {
	return fmt.Sprintf("service %q allows the paths %v alone", e.Service, e.Only)
}

// Connect makes a connection to a service. It counts as one of its flows until
// it is closed, or the service is withdrawn, which closes it. A *RuleError says
// which rule the caller must come under.
func (c *Connector) Connect(ctx context.Context, name string, from Caller) (net.Conn, error) {
	s := c.Services.get(name)
	switch {
	case s == nil:
		return nil, fmt.Errorf("no service %q is exposed here", ops.Plain(name))
	case s.target.Scheme != "tcp":
		return nil, fmt.Errorf("service %q takes datagrams, not connections; dial it with a udp:// URL", name)
	}
	both, ok := s.target.Only.Narrow(from.Only)
	if !ok {
		return nil, fmt.Errorf("service %q allows the paths %v alone, and who dialed it %v: they have none in common", name, s.target.Only, from.Only)
	}
	if both != from.Only {
		return nil, &RuleError{Service: name, Only: both}
	}
	addr, err := s.target.Find(ctx, c.Resolve)
	if err != nil {
		return nil, fmt.Errorf("service %q: %w", name, err)
	}
	conn, err := c.dial(ctx, s, addr, from)
	if err != nil {
		return nil, fmt.Errorf("service %q does not take connections at %v: %w; is it running?", name, addr, plainReason(err))
	}
	if s.target.Proxy {
		if err := announceClient(conn, from); err != nil {
			_ = conn.Close()
			return nil, fmt.Errorf("tell service %q who its client is: %w", name, err)
		}
	}
	return conn, nil
}

// plainReason leaves out what an error says of addresses that are told already.
func plainReason(err error) error {
	var refused syscall.Errno
	if errors.As(err, &refused) {
		return refused
	}
	return err
}

// dial connects, from the client's alias where the service has that.
func (c *Connector) dial(ctx context.Context, s *service, to netip.AddrPort, from Caller) (*serviceConn, error) {
	var local netip.AddrPort
	out := &serviceConn{of: s, ended: from.Ended}
	if s.target.Alias && c.Aliases != nil {
		source, err := c.Aliases.Take(from.Client)
		if err != nil {
			return nil, err
		}
		local = netip.AddrPortFrom(source, 0)
		out.release = func() { c.Aliases.Release(from.Client) }
	}
	conn, err := c.TCP.DialTCP(ctx, local, to)
	if err != nil {
		if out.release != nil {
			out.release()
		}
		return nil, err
	}
	out.Conn = conn
	s.hold(out)
	return out, nil
}

// serviceConn is a connection to a service.
type serviceConn struct {
	net.Conn
	of      *service
	release func() // gives the alias back
	ended   func() // for who asked for it
	once    sync.Once
}

// NetConn is the connection below, as tls.Conn has it.
func (c *serviceConn) NetConn() net.Conn { return c.Conn }

// CloseWrite is *net.TCPConn's.
func (c *serviceConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetLinger is *net.TCPConn's.
func (c *serviceConn) SetLinger(seconds int) error {
	if l, ok := c.Conn.(interface{ SetLinger(int) error }); ok {
		return l.SetLinger(seconds)
	}
	return errors.ErrUnsupported
}

// Close is net.Conn's.
func (c *serviceConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		c.of.drop(c)
		if c.release != nil {
			c.release()
		}
		if c.ended != nil {
			c.ended()
		}
	})
	return err
}

// connections are those to one service that are open.
type connections struct {
	mu   sync.Mutex
	list map[*serviceConn]struct{}
}

func (s *service) hold(c *serviceConn) {
	s.flows.Add(1)
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	if s.conns.list == nil {
		s.conns.list = make(map[*serviceConn]struct{})
	}
	s.conns.list[c] = struct{}{}
}

func (s *service) drop(c *serviceConn) {
	s.flows.Add(-1)
	s.conns.mu.Lock()
	defer s.conns.mu.Unlock()
	delete(s.conns.list, c)
}

// cut resets all connections to a service that is exposed no more. Whoever
// carries them finds out by that.
func (s *service) cut() {
	s.conns.mu.Lock()
	all := make([]*serviceConn, 0, len(s.conns.list))
	for c := range s.conns.list {
		all = append(all, c)
	}
	s.conns.mu.Unlock()
	for _, c := range all {
		dgram.Reset(c)
	}
}

// announceClient writes a header of the PROXY protocol, version 2, before all
// else. Where the client's address is not known it says LOCAL: the service
// takes the connection for the agent's own.
func announceClient(to net.Conn, from Caller) error {
	h := &proxyproto.Header{Version: 2, Command: proxyproto.LOCAL, TransportProtocol: proxyproto.UNSPEC}
	if from.From.IsValid() {
		source, dest := netip.AddrPortFrom(from.From.Addr().Unmap(), from.From.Port()), netip.AddrPortFrom(from.To.Addr().Unmap(), from.To.Port())
		if !dest.IsValid() || dest.Addr().Is4() != source.Addr().Is4() {
			dest = netip.AddrPortFrom(dgram.Any(source.Addr()), dest.Port())
		}
		h.Command, h.TransportProtocol = proxyproto.PROXY, proxyproto.TCPv4
		if source.Addr().Is6() {
			h.TransportProtocol = proxyproto.TCPv6
		}
		h.SourceAddr, h.DestinationAddr = net.TCPAddrFromAddrPort(source), net.TCPAddrFromAddrPort(dest)
	}
	_, err := h.WriteTo(to)
	return err
}
