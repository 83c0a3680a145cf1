package agent

import (
	"context"
	"slices"
	"time"

	"rendezvous/internal/path"
	"rendezvous/internal/portmap"
	"rendezvous/proto"
)

// mapWithin bounds the wait for the router's answer about TCP: a punch waits
// for us, and goes without.
const mapWithin = time.Second

// tcpMapping is a port of an attempt that the router is to lead to us.
type tcpMapping struct {
	kind path.Kind
	port portmap.Port
}

// transportOf is what candidates of a kind of TCP's go over.
func transportOf(k path.Kind) proto.Transport {
	if k == path.DirectFakeTCP {
		return proto.Transport_TRANSPORT_FAKE_TCP
	}
	return proto.Transport_TRANSPORT_TCP
}

// tcpKinds are those of TCP's, by turns, so that each has the one port that
// passes in one attempt.
func (o *openings) tcpKinds() []path.Kind {
	kinds := []path.Kind{path.DirectFakeTCP, path.DirectTCP}
	if o.attempt%2 == 1 {
		slices.Reverse(kinds)
	}
	return kinds
}

// toMap is which ports the router is asked for. It is asked where TCP is what
// there is: UDP does not pass on one of the two sides. A peer from which TCP
// passes to few ports is served by one of these outside alone, wherever that
// leads here. Where a service of this host has that port nobody is asked: what a
// router sends to it is its own.
func (o *openings) toMap() (list []tcpMapping) {
	o.as.mu.Lock()
	theirs := o.as.heard.last
	o.as.mu.Unlock()
	limited := len(o.through) > 0
	if o.as.a.mapper.Mapper == nil || !limited && o.as.a.link.ways().udp && theirs.behaviour != nil {
		return nil
	}
	for _, k := range o.tcpKinds() {
		number, chosen := o.first4(k)
		why := o.barred[k]
		if number == 0 || limited && !chosen && why != nil && why.Reason == "port-taken" {
			continue
		}
		m := tcpMapping{k, portmap.Port{Transport: portmap.TCP, Number: number}}
		if !limited {
			list = append(list, m)
			continue
		}
		m.port.External = o.through[0]
		if chosen {
			m.port.External = number
		}
		return []tcpMapping{m}
	}
	return list
}

// first4 is the number of a kind's first port of IPv4, 0 where there is none,
// and whether it is one that the peer's firewall was chosen for.
func (o *openings) first4(k path.Kind) (first uint16, chosen bool) {
	s := o.tcpPorts(nil)
	if k == path.DirectFakeTCP {
		s = o.fakePorts(nil)
	}
	plain, through := s.split()
	for _, p := range append(through, plain...) {
		if at := p.at(); at.Addr().Unmap().Is4() {
			return at.Port(), slices.Contains(o.through, at.Port())
		}
	}
	return 0, false
}

// mapPorts has the router lead the ports here, and returns what it grants
// before long.
func (o *openings) mapPorts(ctx context.Context) (granted map[path.Kind]portmap.Mapping) {
	ctx, cancel := context.WithTimeout(ctx, mapWithin)
	defer cancel()
	for _, m := range o.mapped {
		o.as.a.mapper.Map(m.port)
	}
	granted = make(map[path.Kind]portmap.Mapping)
	for _, m := range o.mapped {
		if held, ok := o.as.a.mapper.Await(ctx, m.port); ok {
			granted[m.kind] = held
		}
	}
	return granted
}

// unmap gives the ports back, as soon as nothing uses them any more.
func (o *openings) unmap() {
	for _, m := range o.mapped {
		var users []*endpoint
		o.as.mu.Lock()
		for _, e := range o.as.sockets.all {
			if e.kind == m.kind && e.conn.LocalAddr().Port() == m.port.Number {
				users = append(users, e)
			}
		}
		o.as.mu.Unlock()
		o.as.a.tasks.start(func(ctx context.Context) {
			for _, e := range users {
				select {
				case <-e.ended:
				case <-ctx.Done():
					return // the mapper's own end gives all back
				}
			}
			o.as.a.mapper.Unmap(m.port)
		})
	}
}
