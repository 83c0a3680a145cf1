package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/sources"
	"rendezvous/proto"
)

// listen opens the port's sockets: on the addresses that the coordinator's own
// ports are on.
func (p *publicPorts) listen(key publicKey, owner Key, rule *PublishRule, ask *proto.PublicPort) (*publicPort, error) {
	port := &publicPort{publicKey: key}
	source := p.sources[0]
	for i := range p.server.config.Publish {
		if &p.server.config.Publish[i] == rule {
			source = p.sources[i]
		}
	}
	if key.tcp {
		return port, p.listenTCP(port, owner, rule.withDefaults(), source)
	}
	return port, p.listenUDP(port, owner, rule.withDefaults(), source, !ask.GetRaw())
}

func (p *publicPorts) listenUDP(port *publicPort, owner Key, rule PublishRule, source *sources.Buckets, sealed bool) error {
	t := newPublicTable(publicSetup{p.server.relay, rule, sealed, p.kick, func() { p.doubt(owner) }}, source)
	port.table, port.clientele = t, t
	for _, place := range p.server.places {
		at := netip.AddrPortFrom(place.addr, port.number)
		conn, err := p.server.config.Network.ListenUDP(at)
		switch {
		case noFamily(err, place.addr):
			continue
		case err != nil:
			return errors.Join(explainListen("UDP", err, at, "?public="), closeDoors(t.doors))
		}
		port.open = append(port.open, place)
		t.doors = append(t.doors, &publicDoor{table: t, conn: conn, clients: map[netip.AddrPort]*publicClient{}})
	}
	for _, door := range t.doors {
		p.readers.Go(func() {
			_ = path.Read(door.conn, func(b dgram.Burst) { t.receive(door, b) }) // it ends when the port is closed
		})
	}
	return nil
}

func (p *publicPorts) listenTCP(port *publicPort, owner Key, rule PublishRule, source *sources.Buckets) error {
	s := p.server
	if s.config.Streams == nil {
		return fmt.Errorf("%v: this coordinator does without TCP (`tcp: false` in its configuration)", port.publicKey)
	}
	l := &publicListener{rule: rule, source: source, conns: p.streams.of(owner), tasks: &p.readers, doubt: func() { p.doubt(owner) }}
	l.ctx, l.cancel = context.WithCancelCause(context.Background())
	port.clientele = l
	for _, place := range s.places {
		at := netip.AddrPortFrom(place.addr, port.number)
		door, err := s.config.Streams.ListenTCP(at)
		switch {
		case noFamily(err, place.addr):
			continue
		case err != nil:
			return errors.Join(explainListen("TCP", err, at, "?public="), closeListeners(l.doors))
		}
		port.open = append(port.open, place)
		l.doors = append(l.doors, door)
	}
	for _, door := range l.doors {
		p.readers.Go(func() { l.accept(door) })
	}
	return nil
}

// shut is that of clientele.
func (t *publicTable) shut(now time.Time) error {
	err := closeDoors(t.doors)
	t.clear(now)
	return err
}

func closeDoors(doors []*publicDoor) (err error) {
	for _, each := range doors {
		err = errors.Join(err, each.conn.Close())
	}
	return err
}

// describe fills in what was granted.
func (port *publicPort) describe(s *Server, out *proto.Publication) {
	for _, place := range port.open {
		public := place.public
		if !public.IsValid() {
			public = s.guess[place.addr.Is4()]
		}
		if public.IsValid() {
			out.Addrs = append(out.Addrs, proto.NewEndpoint(netip.AddrPortFrom(public, port.number)))
		}
	}
	if port.table != nil {
		port.table.mu.Lock()
		defer port.table.mu.Unlock()
		out.Spares = uint32(port.table.granted.spares)
		out.KeepaliveS = uint32(port.table.granted.terms.Keepalive / time.Second)
	}
}
