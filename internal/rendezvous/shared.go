package rendezvous

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/share"
	"rendezvous/proto"
)

// ownProtocols are the ALPNs that the coordinator answers itself, over QUIC and TLS.
var ownProtocols = []string{ALPN, ALPNStreams, ALPNCarrier}

// openShare makes what hands other programs' traffic on; nil where nothing is
// shared.
func (s *Server) openShare() error {
	c := s.config.Share
	if c == nil {
		return nil
	}
	s.share = share.New(*c, share.Own{Protocols: ownProtocols, Datagram: s.surelyOurs}, s.config.Network, s.config.Streams, s.log)
	var faults []error
	for _, b := range c.Backends {
		faults = append(faults, s.refuseLoop(b.Name, b.UDP, proto.Transport_TRANSPORT_UDP), s.refuseLoop(b.Name, b.TCP, proto.Transport_TRANSPORT_TCP))
	}
	for _, each := range s.sockets {
		if each.transport == proto.Transport_TRANSPORT_UDP {
			each.shared = s.share.Door(each.conn)
		}
	}
	return errors.Join(faults...)
}

// refuseLoop refuses a backend that is one of our own ports: what was handed
// there would come back.
func (s *Server) refuseLoop(name string, to netip.AddrPort, t proto.Transport) error {
	var spots []spot
	for _, each := range s.sockets {
		spots = append(spots, each.spot)
	}
	for _, each := range s.streams {
		spots = append(spots, each.spot)
	}
	for _, at := range spots {
		own := at.local.Addr()
		if to.IsValid() && at.transport == t && at.local.Port() == to.Port() &&
			(own == to.Addr() || own.IsUnspecified() && to.Addr().IsLoopback() && own.Is4() == to.Addr().Is4()) {
			return fmt.Errorf("share: backend %s is at %v, where the coordinator itself listens; give that program another port, or name this host's addresses with --public-addr and let it listen on 127.0.0.1 alone", name, to)
		}
	}
	return nil
}

// surelyOurs says of a datagram that nobody else than the coordinator can be
// meant: it is for one of its connections, or asks for STUN.
func (s *Server) surelyOurs(d []byte) bool {
	switch proto.KindOf(d) {
	case proto.KindQUIC:
		return s.ids.owns(d) || s.lean.ids.owns(d)
	case proto.KindSTUN:
		return d[0]&0x3e == 0 && int(binary.BigEndian.Uint16(d[2:])) == len(d)-stunHeader
	}
	return false
}

// look finds out whether a TCP connection is for another program, and if so
// takes it there. Else it gives the connection from its first byte.
func (f *front) look(conn net.Conn, leave func()) (seen *peeked, ours bool) {
	if f.server.share == nil {
		seen = &peeked{Conn: conn}
		if _, err := seen.peek(); err != nil {
			f.drops.silent.Add(1)
			return nil, false
		}
		return seen, true
	}
	look, err := f.server.share.Inspect(conn, time.Now().Add(greetWithin))
	switch {
	case err != nil && len(look.Kept) == 0:
		f.drops.silent.Add(1)
		return nil, false
	case err != nil:
		f.drops.unknown.Add(1)
		return nil, false
	case !look.Foreign():
		return &peeked{Conn: conn, first: look.Kept}, true
	}
	leave() // it is bounded among others from here on
	f.server.share.Carry(conn, look)
	return nil, false
}

// own serves what came over UDP and is for the coordinator.
func (s *Server) own(in *socket, b dgram.Burst) {
	now := time.Now()
	for d := range b.All() {
		if !s.surelyOurs(d) {
			if plain, ok := in.veil.Receive(b.Addr, d, now); ok {
				s.control(now, in, b.Addr, plain)
				continue
			}
		}
		switch proto.KindOf(d) {
		case proto.KindQUIC:
			s.control(now, in, b.Addr, d)
		case proto.KindSTUN:
			if in.answer(now, b.Addr, d) != nil {
				s.drops.stunWrite.Add(1)
			}
		default:
			s.drops.unknownKind.Add(1)
		}
	}
}

// control hands on a datagram of a control connection.
func (s *Server) control(now time.Time, in *socket, from netip.AddrPort, d []byte) {
	if !s.lean.receive(now, in, from, d) {
		in.packets.Deliver(dgram.One(from, d))
	}
}
