package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/path"
	"rendezvous/internal/portmap"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// directKinds are the kinds of path between the agents themselves, best first.
var directKinds = []path.Kind{path.DirectUDP, path.DirectFakeTCP, path.DirectTCP}

// unable is why this agent climbs no direct path of a kind, nil if it does.
func (a *Agent) unable(k path.Kind) *path.Failure {
	switch {
	case !a.allows(k):
		return notAllowed(k, "this agent")
	case k == path.DirectFakeTCP && a.cfg.Host.FakeTCP == nil:
		return a.noFakeTCP()
	case k == path.DirectTCP && a.cfg.Host.TCP == nil:
		return skip("unsupported", "this agent was set up without TCP connections of its own", "")
	}
	return nil
}

// openings are new ports to punch from, of each transport that both agents
// may use.
type openings struct {
	as      *association
	attempt uint32   // of punching
	through []uint16 // the ports that alone TCP passes to from the peer's network; none: all do, as far as is known
	udp     []*endpoint
	fake    []*endpoint // datagrams dressed as TCP segments
	tcp     []*tcpPort
	// tcpNature is how the NAT chooses TCP's ports, once one transport has
	// found out.
	tcpNature foundOut
	mapped    []tcpMapping // ports that the router is asked for
	// barred is why a kind has none of the ports of through.
	barred map[path.Kind]*path.Failure
}

// openKinds opens ports for the kinds of direct path. A kind that can't be had
// is left out; the error says why there is none at all. through is the ports
// that alone TCP passes to from the peer's network, where there is such a limit.
func (as *association) openKinds(kinds []path.Kind, attempt uint32, through []uint16) (*openings, error) {
	o := &openings{as: as, attempt: attempt, through: through, tcpNature: foundOut{turn: make(chan struct{}, 1)}}
	var faults []error
	for _, k := range kinds {
		var err error
		switch k {
		case path.DirectUDP:
			o.udp, err = as.open()
		case path.DirectFakeTCP, path.DirectTCP:
			err = o.openEach(k)
		}
		if err != nil {
			faults = append(faults, err)
		}
	}
	if len(o.udp)+len(o.fake)+len(o.tcp) == 0 && len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
	o.openThrough()
	return o, nil
}

// has says whether ports for a kind are open.
func (o *openings) has(k path.Kind) bool {
	switch k {
	case path.DirectUDP:
		return len(o.udp) > 0
	case path.DirectFakeTCP:
		return len(o.fake) > 0
	case path.DirectTCP:
		return len(o.tcp) > 0
	}
	return false
}

// names are the kinds that ports are open for, as an Again has them.
func (o *openings) names(kinds []path.Kind) (names []string) {
	for _, k := range kinds {
		if o.has(k) {
			names = append(names, k.String())
		}
	}
	return names
}

// families are those that the host has an address of.
func (a *Agent) families() (all []netip.Addr) {
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if a.hasFamily(family.Is4()) {
			all = append(all, family)
		}
	}
	return all
}

// close closes what led nowhere; what a path is on stays.
func (o *openings) close() {
	o.as.discard(o.udp)
	o.as.discard(o.fake)
	for _, p := range o.tcp {
		p.close()
	}
	o.unmap()
}

// gather finds where the ports may be reached, all of them side by side.
func (o *openings) gather(ctx context.Context) gathered {
	ctx, cancel := context.WithTimeout(ctx, gatherWithin)
	defer cancel()
	var parts [3]gathered
	var wait sync.WaitGroup
	w := o.as.a.link.ways()
	var led map[path.Kind]portmap.Mapping
	if o.mapped = o.toMap(); len(o.mapped) > 0 {
		wait.Go(func() { led = o.mapPorts(ctx) })
	}
	wait.Go(func() {
		if w.udpDead { // the others would wait for nothing
			parts[0] = o.as.a.hosts(o.udp)
		} else {
			parts[0] = o.gatherUDP(ctx)
		}
	})
	wait.Go(func() { parts[1] = o.fakePorts(o.as.a.withOthers(w.fakeTCP)).gather(ctx) })
	wait.Go(func() { parts[2] = o.tcpPorts(o.as.a.link.tcpServers()).gather(ctx) })
	wait.Wait()
	if len(o.fake)+len(o.tcp) > 0 {
		o.as.a.nature.awaitSurvey(ctx)
	}
	g := gathered{passing: o.as.a.passingHere(o.attempt)}
	for _, part := range parts {
		g.merge(part)
	}
	for _, k := range []path.Kind{path.DirectTCP, path.DirectFakeTCP} {
		if m, ok := led[k]; ok {
			o.as.a.addMapping(&g, m, transportOf(k))
		}
	}
	return g
}

// maxServers is how many servers a port asks: a second port and a second
// address tell on what its mapping depends.
const maxServers = 3

func sameFamily(servers []netip.AddrPort, v4 bool) (list []netip.AddrPort) {
	for _, s := range servers {
		if s.Addr().Unmap().Is4() == v4 && len(list) < maxServers {
			list = append(list, s)
		}
	}
	return list
}

// sightings asks all servers at once, and waits for none much longer than the
// fastest took: a firewall may block one, and a punch waits for us.
func sightings(ctx context.Context, servers []netip.AddrPort, ask func(context.Context, netip.AddrPort) (stun.Result, error)) []sighting {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	found := make([]sighting, len(servers))
	var wait sync.WaitGroup
	for i, server := range servers {
		wait.Go(func() {
			if r, err := ask(ctx, server); err == nil {
				found[i] = sighting{server, r.Mapped}
				time.AfterFunc(r.RTT+gatherGrace, cancel)
			}
		})
	}
	wait.Wait()
	return slices.DeleteFunc(found, func(s sighting) bool { return !s.mapped.IsValid() })
}

// tcpServers are where STUN is asked over TCP: the doors of the proven
// address, and one of another address that STUN is answered at.
func (l *link) tcpServers() []netip.AddrPort {
	l.mu.Lock()
	at, doors := l.addr.Addr().Unmap(), l.reach.doors
	l.mu.Unlock()
	if !at.IsValid() {
		return nil
	}
	ports := portsOf(doors, proto.Transport_TRANSPORT_TLS)
	for _, port := range portsOf(doors, proto.Transport_TRANSPORT_TCP) {
		if !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	var list []netip.AddrPort
	for _, port := range ports[:min(len(ports), maxServers-1)] {
		list = append(list, netip.AddrPortFrom(at, port))
	}
	return l.a.withOthers(list)
}

// withOthers is up to two doors of one address, and those of other addresses
// that STUN is answered at: they tell whether a mapping depends on the address.
func (a *Agent) withOthers(doors []netip.AddrPort) []netip.AddrPort {
	if len(doors) == 0 {
		return nil
	}
	list := slices.Clone(doors[:min(len(doors), maxServers-1)])
	for _, s := range a.stunServers() {
		other := netip.AddrPortFrom(s.Addr().Unmap(), doors[0].Port())
		if other.Addr() != doors[0].Addr() && !slices.Contains(list, other) {
			list = append(list, other)
		}
	}
	return list
}
