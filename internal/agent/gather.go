package agent

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// Bounds of what one agent offers of itself.
const (
	maxHost      = 6 // host candidates, both families together
	gatherWithin = 1500 * time.Millisecond
	gatherGrace  = 50 * time.Millisecond // and a round trip, for the servers that are slower than the first
	// While something else reaches the coordinator and UDP has not yet: an
	// introduction waits for this, and as a rule in vain.
	gatherDoubtful = 300 * time.Millisecond // and two round trips
)

// bridges are interfaces that lead to containers, virtual machines or other
// tunnels of this host: no peer is there, and they must not eat the slots. A
// tunnel that runs over us would loop.
var bridges = []string{"docker*", "br-*", "virbr*", "veth*", "cni*", "flannel*", "cali*", "lxc*", "lxd*", "podman*",
	"vmnet*", "vboxnet*", "tailscale*", "utun*", "tun*", "tap*", "wg*", "zt*", "nebula*", "teredo*", "Teredo*", "isatap*", "6to4*", "sit*"}

// gathered is where one set of sockets may be reached.
type gathered struct {
	candidates   []candidate
	behaviour    *proto.Behaviour
	tcpBehaviour *proto.Behaviour
	outside      []netip.Addr // addresses that STUN servers saw us from
	pinned       bool         // the coordinator was one of them, at the address where it has proven its key
	passing      []uint16     // the remote ports that alone TCP passes to from here
}

type candidate struct {
	kind      proto.CandidateType
	addr      netip.AddrPort
	transport proto.Transport
}

// translated4 says whether it is where servers see a socket over IPv4.
func (c candidate) translated4() bool {
	return c.kind == proto.CandidateType_CANDIDATE_SERVER_REFLEXIVE && c.addr.Addr().Is4()
}

// public says whether a peer elsewhere may reach it.
func (c candidate) public() bool {
	return c.kind == proto.CandidateType_CANDIDATE_SERVER_REFLEXIVE || !path.Private(c.addr.Addr())
}

// overUDP says whether a peer elsewhere may reach us over UDP at all.
func (g gathered) overUDP() bool {
	return slices.ContainsFunc(g.candidates, func(c candidate) bool {
		return c.transport == proto.Transport_TRANSPORT_UDP && c.public()
	})
}

// hostCandidates ranks the host's own addresses for sockets on these ports:
// global ones first (a peer may reach them without translation), then private
// ones by the order of the interfaces, bridges and loopback left out.
func hostCandidates(addrs []dgram.HostAddr, ignore []string, conns []dgram.Conn) []candidate {
	locals := make([]netip.AddrPort, 0, len(conns))
	for _, c := range conns {
		locals = append(locals, c.LocalAddr())
	}
	return hostCandidatesOf(addrs, ignore, locals, proto.Transport_TRANSPORT_UDP)
}

func hostCandidatesOf(addrs []dgram.HostAddr, ignore []string, locals []netip.AddrPort, over proto.Transport) []candidate {
	var global, private []candidate
	for _, h := range addrs {
		a := h.Addr.Addr().Unmap()
		if !h.Up || h.Deprecated || ignored(h.Interface, ignore) || a.IsLoopback() || a.IsLinkLocalUnicast() || !a.IsGlobalUnicast() || path.Transition(a) {
			continue
		}
		for _, local := range locals {
			if local.Addr().Unmap().Is4() != a.Is4() {
				continue
			}
			found := candidate{proto.CandidateType_CANDIDATE_HOST, netip.AddrPortFrom(a, local.Port()), over}
			if path.Private(a) {
				private = append(private, found)
			} else {
				global = append(global, found)
			}
		}
	}
	all := append(global, private...)
	return all[:min(len(all), maxHost)]
}

func ignored(name string, extra []string) bool {
	for _, pattern := range slices.Concat(bridges, extra) {
		if ok, _ := filepath.Match(pattern, name); ok {
			return true
		}
	}
	return false
}

// gather finds where the sockets of these endpoints may be reached: the
// host's own addresses, and what STUN servers see of each very socket.
func (a *Agent) gather(ctx context.Context, endpoints []*endpoint) gathered {
	g := a.hosts(endpoints)
	g.passing = a.passingHere(1)
	within := gatherWithin
	if !a.link.ways().udp {
		within = min(within, gatherDoubtful+2*a.link.rtt())
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	servers := a.stunServers()
	var wait sync.WaitGroup
	var mu sync.Mutex
	for _, e := range endpoints {
		if !a.hasFamily(e.is4()) {
			continue // nobody is reached from there, and asking takes time
		}
		wait.Go(func() {
			seen := e.mapped(ctx, servers)
			if slices.Contains(a.mains, e) {
				seen = a.board.certain(seen)
			}
			pinned := a.link.pinned(seen)
			mu.Lock()
			defer mu.Unlock()
			g.pinned = g.pinned || pinned
			g.add(e, seen)
		})
	}
	wait.Wait()
	a.addMapped(&g, endpoints)
	return g
}

// gatherSoon is gather of the main sockets for data that waits: where UDP is in
// question, STUN may never answer, and has two round trips.
func (a *Agent) gatherSoon(ctx context.Context) gathered {
	if !a.link.ways().udp {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 2*a.link.rtt()+gatherGrace)
		defer cancel()
	}
	return a.gather(ctx, a.mains)
}

// hosts is what is known without asking anybody.
func (a *Agent) hosts(endpoints []*endpoint) gathered {
	return a.hostsOf(localsOf(endpoints), proto.Transport_TRANSPORT_UDP)
}

func (a *Agent) hostsOf(locals []netip.AddrPort, over proto.Transport) gathered {
	addrs, err := a.addrs()
	if err != nil {
		a.refusals.note(a, "interfaces", err)
	}
	return gathered{candidates: hostCandidatesOf(addrs, a.cfg.Ignore, locals, over)}
}

func localsOf(endpoints []*endpoint) []netip.AddrPort {
	locals := make([]netip.AddrPort, 0, len(endpoints))
	for _, e := range endpoints {
		locals = append(locals, e.conn.LocalAddr())
	}
	return locals
}

// hasFamily says whether the host has an address of that family which leads
// anywhere. A kernel opens sockets of a family that it has no address of.
func (a *Agent) hasFamily(v4 bool) bool {
	addrs, err := a.addrs()
	return err != nil || slices.ContainsFunc(addrs, func(h dgram.HostAddr) bool {
		ip := h.Addr.Addr().Unmap()
		return h.Up && ip.Is4() == v4 && !ip.IsLoopback() && !ip.IsLinkLocalUnicast()
	})
}

// sighting is what one STUN server saw of a socket.
type sighting struct {
	server, mapped netip.AddrPort
}

// mapped asks up to maxServers of the endpoint's family at once. The first is
// the one that counts for the candidate.
func (e *endpoint) mapped(ctx context.Context, servers []netip.AddrPort) []sighting {
	answering := slices.DeleteFunc(slices.Clone(servers), e.board.silent)
	return sightings(ctx, sameFamily(answering, e.is4()), func(ctx context.Context, server netip.AddrPort) (stun.Result, error) {
		r, err := e.stun.Bind(ctx, server)
		if err == nil {
			e.board.answered(server)
		}
		return r, err
	})
}

// add takes in what the servers saw of one endpoint.
func (g *gathered) add(e *endpoint, seen []sighting) {
	g.see(seen, proto.Transport_TRANSPORT_UDP)
	if e.is4() && len(seen) > 0 {
		g.behaviour = behaviourOf(seen, e.conn.LocalAddr().Port())
	}
}

// see takes in where servers saw one port from.
func (g *gathered) see(seen []sighting, over proto.Transport) {
	for _, s := range seen {
		if path.Transition(s.mapped.Addr()) {
			continue
		}
		c := candidate{proto.CandidateType_CANDIDATE_SERVER_REFLEXIVE, s.mapped, over}
		known := slices.ContainsFunc(g.candidates, func(k candidate) bool { return k.addr == s.mapped && k.transport == over })
		if !known {
			g.candidates = append(g.candidates, c)
		}
		if !slices.Contains(g.outside, s.mapped.Addr()) {
			g.outside = append(g.outside, s.mapped.Addr())
		}
	}
}

// merge takes in what was found over another transport.
func (g *gathered) merge(o gathered) {
	g.candidates = append(g.candidates, o.candidates...)
	for _, ip := range o.outside {
		if !slices.Contains(g.outside, ip) {
			g.outside = append(g.outside, ip)
		}
	}
	if g.behaviour == nil {
		g.behaviour = o.behaviour
	}
	if g.tcpBehaviour == nil {
		g.tcpBehaviour = o.tcpBehaviour
	}
}

// behaviourOf says what a few sightings can say. Equal ports at one address
// with two ports leave open whether another address would see another port.
func behaviourOf(seen []sighting, local uint16) *proto.Behaviour {
	kept := func(s sighting) bool { return s.mapped.Port() == local } // the first destination may get the own port, others another
	b := &proto.Behaviour{PortPreserving: slices.ContainsFunc(seen, kept)}
	for _, s := range seen[1:] {
		same, sameAddr := s.mapped == seen[0].mapped, s.server.Addr() == seen[0].server.Addr()
		switch {
		case !same && sameAddr:
			b.Mapping = proto.Behaviour_ADDRESS_AND_PORT_DEPENDENT
			return b
		case !same:
			b.Mapping = proto.Behaviour_ADDRESS_DEPENDENT
		case !sameAddr && b.Mapping == proto.Behaviour_DEPENDENCE_UNKNOWN:
			b.Mapping = proto.Behaviour_ENDPOINT_INDEPENDENT
		}
	}
	return b
}

// message is g as peers get it, signed.
func (a *Agent) signCandidates(g gathered) (*proto.Signed, error) {
	secret, ok := a.cfg.State.Secret()
	if !ok {
		return nil, errWaiting
	}
	set := &proto.CandidateSet{Behaviour: a.ageKnown(g.behaviour), TcpBehaviour: g.tcpBehaviour, MadeUnixNs: time.Now().UnixNano(), NoSpray: !a.cfg.Punch.Spray}
	for _, c := range g.candidates {
		m := proto.NewCandidate(c.kind, c.addr)
		m.Transport = c.transport
		set.Candidates = append(set.Candidates, m)
	}
	for _, k := range a.cfg.Paths {
		set.Paths = append(set.Paths, k.String())
	}
	passing := g.passing
	if len(passing) == 0 {
		passing = a.passingHere(1)
	}
	for _, port := range passing {
		set.TcpPorts = append(set.TcpPorts, uint32(port))
	}
	body, err := proto.Marshal(set)
	if err != nil {
		return nil, err
	}
	return seal.Sign(a.id, &secret, seal.ContextCandidates, body), nil
}

// offered is what a peer offers, proven to be its own.
type offered struct {
	all          []candidate
	addrs        []netip.AddrPort // over UDP
	tcp          []netip.AddrPort
	fake         []netip.AddrPort // over fake TCP
	overUDP      bool             // one over UDP is not private to its network
	outside      []netip.Addr
	behaviour    *proto.Behaviour
	tcpBehaviour *proto.Behaviour
	made         time.Time
	kinds        []string // of path that it allows; empty means all
	noSpray      bool     // it takes no part in one
	passing      []uint16 // the remote ports that alone TCP passes to from there
}

func (o offered) allows(k path.Kind) bool {
	return len(o.kinds) == 0 || slices.Contains(o.kinds, k.String())
}

// readCandidates verifies a peer's candidates: signed by its key and by a
// member of the network. So a coordinator can't aim us at anybody.
func (a *Agent) readCandidates(s *proto.Signed, peer Peer) (offered, error) {
	secret, ok := a.cfg.State.Secret()
	if !ok {
		return offered{}, errWaiting
	}
	if err := seal.Verify(s, &secret, seal.ContextCandidates, peer.Key); err != nil {
		return offered{}, err
	}
	var set proto.CandidateSet
	if err := proto.Unmarshal(s.GetBody(), &set); err != nil {
		return offered{}, err
	}
	o := offered{behaviour: set.GetBehaviour(), tcpBehaviour: set.GetTcpBehaviour(),
		made: time.Unix(0, set.GetMadeUnixNs()), kinds: set.GetPaths(), noSpray: set.GetNoSpray(),
		passing: portsTold(set.GetTcpPorts())}
	for _, m := range set.GetCandidates() {
		if addr, ok := m.AddrPort(); ok {
			o.add(candidate{m.GetType(), addr, m.GetTransport()})
		}
	}
	return o, nil
}

// add takes in one candidate; one of a transport that we don't know is of no
// use.
func (o *offered) add(c candidate) {
	o.all = append(o.all, c)
	switch c.transport {
	case proto.Transport_TRANSPORT_UDP:
		o.addrs = append(o.addrs, c.addr)
		o.overUDP = o.overUDP || c.public()
	case proto.Transport_TRANSPORT_TCP:
		o.tcp = append(o.tcp, c.addr)
	case proto.Transport_TRANSPORT_FAKE_TCP:
		o.fake = append(o.fake, c.addr)
	}
	if c.public() {
		o.outside = append(o.outside, c.addr.Addr())
	}
}

// sharesOutside says whether two agents are seen from a common address.
func sharesOutside(a, b []netip.Addr) bool {
	return slices.ContainsFunc(a, func(x netip.Addr) bool { return slices.Contains(b, x) })
}
