package agent

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
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
	attempt uint32 // of punching
	udp     []*endpoint
	fake    []*endpoint // datagrams dressed as TCP segments
	tcp     []*tcpPort
}

// tcpPort is a TCP port that several connections share, so that what a server
// sees of it holds for the peer as well.
type tcpPort struct {
	local    netip.AddrPort
	listener net.Listener

	mu    sync.Mutex
	asked []net.Conn // to STUN servers; open, lest a NAT forgets the mapping
}

func (p *tcpPort) is4() bool { return p.local.Addr().Unmap().Is4() }

// answered says whether a server has answered over TCP from this port.
func (p *tcpPort) answered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked) > 0
}

func (p *tcpPort) close() {
	_ = p.listener.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.asked {
		_ = c.Close()
	}
	p.asked = nil
}

// openKinds opens ports for the kinds of direct path. A kind that can't be had
// is left out; the error says why there is none at all.
func (as *association) openKinds(kinds []path.Kind, attempt uint32) (*openings, error) {
	o := &openings{as: as, attempt: attempt}
	var faults []error
	for _, k := range kinds {
		var err error
		switch k {
		case path.DirectUDP:
			o.udp, err = as.open()
		case path.DirectFakeTCP:
			err = o.listenFakeTCP()
		case path.DirectTCP:
			err = o.listenTCP()
		}
		if err != nil {
			faults = append(faults, err)
		}
	}
	if len(o.udp)+len(o.fake)+len(o.tcp) == 0 && len(faults) > 0 {
		return nil, errors.Join(faults...)
	}
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

func (o *openings) listenFakeTCP() error {
	var faults []error
	for _, family := range o.as.a.families() {
		conn, err := o.as.a.cfg.Host.FakeTCP.ListenFakeTCP(netip.AddrPortFrom(family, 0), nil)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		e := newEndpoint(conn, path.DirectFakeTCP, o.as.a.board)
		o.fake = append(o.fake, e)
		o.as.keep(e)
	}
	return errors.Join(faults...)
}

func (o *openings) listenTCP() error {
	var faults []error
	for _, family := range o.as.a.families() {
		l, err := o.as.a.cfg.Host.TCP.ListenTCP(netip.AddrPortFrom(family, 0))
		if err != nil {
			faults = append(faults, err)
			continue
		}
		at, err := netip.ParseAddrPort(l.Addr().String())
		if err != nil {
			_ = l.Close()
			faults = append(faults, err)
			continue
		}
		o.tcp = append(o.tcp, &tcpPort{local: netip.AddrPortFrom(family, at.Port()), listener: l})
	}
	return errors.Join(faults...)
}

// close closes what led nowhere; what a path is on stays.
func (o *openings) close() {
	o.as.discard(o.udp)
	o.as.discard(o.fake)
	for _, p := range o.tcp {
		p.close()
	}
}

// gather finds where the ports may be reached, all of them side by side.
func (o *openings) gather(ctx context.Context) gathered {
	ctx, cancel := context.WithTimeout(ctx, gatherWithin)
	defer cancel()
	var parts [3]gathered
	var wait sync.WaitGroup
	w := o.as.a.link.ways()
	wait.Go(func() {
		if w.udpDead { // the others would wait for nothing
			parts[0] = o.as.a.hosts(o.udp)
		} else {
			parts[0] = o.gatherUDP(ctx)
		}
	})
	wait.Go(func() { parts[1] = o.gatherFakeTCP(ctx, w.fakeTCP) })
	wait.Go(func() { parts[2] = o.gatherTCP(ctx, o.as.a.link.tcpServers()) })
	wait.Wait()
	var g gathered
	for _, part := range parts {
		g.merge(part)
	}
	return g
}

// maxServers is how many servers a port asks: a second port and a second
// address tell on what its mapping depends.
const maxServers = 3

// gatherFakeTCP asks STUN servers behind the coordinator's fake TCP.
func (o *openings) gatherFakeTCP(ctx context.Context, servers []netip.AddrPort) gathered {
	g := o.as.a.hostsOf(localsOf(o.fake), proto.Transport_TRANSPORT_FAKE_TCP)
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, e := range o.fake {
		wait.Go(func() {
			seen := sightings(ctx, sameFamily(servers, e.is4()), func(ctx context.Context, server netip.AddrPort) (stun.Result, error) {
				if conn, ok := e.conn.(dgram.Opener); ok {
					if err := conn.Open(ctx, server); err != nil {
						return stun.Result{}, err
					}
				}
				return e.stun.Bind(ctx, server)
			})
			mu.Lock()
			defer mu.Unlock()
			g.see(seen, proto.Transport_TRANSPORT_FAKE_TCP)
			if e.is4() && len(seen) > 0 {
				g.tcpBehaviour = behaviourOf(seen, e.conn.LocalAddr().Port())
			}
		})
	}
	wait.Wait()
	return g
}

// gatherTCP asks STUN servers over TCP from the very ports that will open.
func (o *openings) gatherTCP(ctx context.Context, servers []netip.AddrPort) gathered {
	locals := make([]netip.AddrPort, 0, len(o.tcp))
	for _, p := range o.tcp {
		locals = append(locals, p.local)
	}
	g := o.as.a.hostsOf(locals, proto.Transport_TRANSPORT_TCP)
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, p := range o.tcp {
		wait.Go(func() {
			seen := sightings(ctx, sameFamily(servers, p.is4()), func(ctx context.Context, server netip.AddrPort) (stun.Result, error) {
				r, conn, err := stun.BindTCP(ctx, o.as.a.cfg.Host.TCP, p.local, server)
				if err == nil {
					p.mu.Lock()
					p.asked = append(p.asked, conn)
					p.mu.Unlock()
				}
				return r, err
			})
			mu.Lock()
			defer mu.Unlock()
			g.see(seen, proto.Transport_TRANSPORT_TCP)
			if p.is4() && len(seen) > 0 {
				g.tcpBehaviour = behaviourOf(seen, p.local.Port())
			}
		})
	}
	wait.Wait()
	return g
}

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
	for _, s := range l.a.stunServers() {
		ip := s.Addr().Unmap()
		if len(ports) > 0 && ip != at {
			list = append(list, netip.AddrPortFrom(ip, ports[0]))
		}
	}
	return list
}
