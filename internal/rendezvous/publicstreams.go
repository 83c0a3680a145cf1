package rendezvous

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/hashicorp/yamux"
	"github.com/quic-go/quic-go"

	"rendezvous/internal/stream"
)

// ALPNCarrier names a connection that carries TCP connections from a public
// port to its agent: over QUIC, and in yamux over TLS.
const ALPNCarrier = "rdv-streams/1"

// publicStreams are the TCP connections from public ports to each member.
type publicStreams struct {
	mu    sync.Mutex
	conns map[Key]*stream.Conns
	wide  map[*quic.Conn]struct{} // carriers, whose windows may grow
	tasks sync.WaitGroup
}

// maxPublicConns bounds the connections of one member, at all of its ports.
const maxPublicConns = 32768

// of are a member's.
func (p *publicStreams) of(key Key) *stream.Conns {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.conns[key]; c != nil {
		return c
	}
	var instance [8]byte
	rand.Read(instance[:])
	c := stream.New(stream.Config{
		Instance: binary.BigEndian.Uint64(instance[:]) | 1,
		Limits:   stream.Limits{Connections: maxPublicConns},
	})
	p.conns[key] = c
	return c
}

// drop breaks all of a member's.
func (p *publicStreams) drop(key Key) {
	p.mu.Lock()
	c := p.conns[key]
	delete(p.conns, key)
	p.mu.Unlock()
	if c != nil {
		p.tasks.Go(c.Close)
	}
}

// stop breaks all, and waits until nothing of them runs.
func (p *publicStreams) stop() {
	p.mu.Lock()
	var keys []Key
	for key := range p.conns {
		keys = append(keys, key)
	}
	p.mu.Unlock()
	for _, key := range keys {
		p.drop(key)
	}
	p.tasks.Wait()
}

// mayCarry says whether a connection that the agent has opened can be the carrier
// of its public ports.
func (s *Server) mayCarry(key Key) bool {
	m, err := s.registry.ByKey(key)
	if err == nil && m.Admitted && s.public.hasTCP(key) {
		return true
	}
	s.drops.carriers.Add(1)
	return false
}

// hasTCP says whether a member has a public TCP port.
func (p *publicPorts) hasTCP(key Key) bool {
	for _, port := range p.of(key) {
		if port.tcp {
			return true
		}
	}
	return false
}

// carry serves a QUIC connection that is a carrier.
func (s *Server) carry(conn *quic.Conn, key Key) {
	if !s.mayCarry(key) {
		_ = conn.CloseWithError(closeProtocol, "no public TCP port is open for this agent")
		return
	}
	p := &s.public.streams
	p.mu.Lock()
	p.wide[conn] = struct{}{}
	p.mu.Unlock()
	p.of(key).Use(stream.OverQUIC(conn))
	<-conn.Context().Done()
	p.mu.Lock()
	delete(p.wide, conn)
	p.mu.Unlock()
}

// mayWiden says whether a connection may take in more before it is read: a
// carrier may, and a control connection need not.
func (p *publicStreams) mayWiden(conn *quic.Conn, _ uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.wide[conn]
	return ok
}

// serverQUIC is for all connections that agents open to us: whether one is a
// carrier is only known when it stands. The streams of carriers are opened by
// us, so that one for control is all that agents need; see mayWiden.
func (s *Server) serverQUIC() *quic.Config {
	c := quicConfig()
	wide := stream.QUICConfig()
	c.MaxStreamReceiveWindow, c.MaxConnectionReceiveWindow = wide.MaxStreamReceiveWindow, wide.MaxConnectionReceiveWindow
	c.AllowConnectionWindowIncrease = s.public.streams.mayWiden
	return c
}

// serveCarrier serves a TLS connection that is a carrier, until it ends.
func (s *Server) serveCarrier(conn *tls.Conn, key Key) {
	if !s.mayCarry(key) {
		return
	}
	session, err := yamux.Server(stream.WholeFrames(conn), stream.YamuxConfig())
	if err != nil {
		s.log.Error().Err(err).Msg("yamux") // a fault of YamuxConfig
		return
	}
	s.public.streams.of(key).Use(stream.OverYamux(session))
	<-session.CloseChan()
}

// DialStreams opens the connection on which the coordinator at addr carries to
// us what comes to our public TCP ports. Ask for the ports first: without one
// the coordinator closes it. Another key there gives a *PinError.
func (d *Dialer) DialStreams(ctx context.Context, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (stream.Carrier, error) {
	quicConf := stream.QUICConfig()
	quicConf.InitialPacketSize, quicConf.DisablePathMTUDiscovery = packetSize, true
	quicConf.MaxIdleTimeout, quicConf.KeepAlivePeriod = idleAfter, keepAlive
	conn, err := d.dial(ctx, netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), pin, cert, ALPNCarrier, quicConf)
	if err != nil {
		return nil, fmt.Errorf("carry public TCP ports: %w", err)
	}
	return stream.OverQUIC(conn), nil
}

// DialStreams is Dialer.DialStreams over TLS, to HOST:PORT, through a proxy
// where there is one.
func (d *TLSDialer) DialStreams(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (stream.Carrier, error) {
	conn, _, err := d.handshake(ctx, at, pin, cert, ALPNCarrier)
	if err != nil {
		return nil, fmt.Errorf("carry public TCP ports: %w", err)
	}
	session, err := yamux.Client(stream.WholeFrames(conn), stream.YamuxConfig())
	if err != nil {
		return nil, errors.Join(err, conn.Close()) // a fault of YamuxConfig
	}
	return stream.OverYamux(session), nil
}
