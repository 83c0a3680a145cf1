package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// tcpPort is a TCP port that several connections share, so that what a server
// sees of it holds for the peer as well.
type tcpPort struct {
	streams  dgram.Streams
	local    netip.AddrPort
	listener net.Listener

	mu    sync.Mutex
	asked []net.Conn // to STUN servers; open, lest a NAT forgets the mapping
}

// answered says whether a server has answered over TCP from this port.
func (p *tcpPort) answered() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked) > 0
}

func (p *tcpPort) at() netip.AddrPort { return p.local }

func (p *tcpPort) ask(ctx context.Context, server netip.AddrPort) (stun.Result, error) {
	r, conn, err := stun.BindTCP(ctx, p.streams, p.local, server)
	if err == nil {
		p.mu.Lock()
		p.asked = append(p.asked, conn)
		p.mu.Unlock()
	}
	return r, err
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

// fakePort is a port of fake TCP.
type fakePort struct{ *endpoint }

func (p fakePort) at() netip.AddrPort { return p.conn.LocalAddr() }

func (p fakePort) ask(ctx context.Context, server netip.AddrPort) (stun.Result, error) {
	if conn, ok := p.conn.(dgram.Opener); ok {
		if err := conn.Open(ctx, server); err != nil {
			return stun.Result{}, err
		}
	}
	return p.stun.Bind(ctx, server)
}

// openFake opens a port of fake TCP before those that there are.
func (o *openings) openFake(at netip.AddrPort) (port, error) {
	conn, err := o.as.a.cfg.Host.FakeTCP.ListenFakeTCP(at, nil)
	if err != nil {
		return nil, err
	}
	e := newEndpoint(conn, path.DirectFakeTCP, o.as.a.board)
	o.fake = append([]*endpoint{e}, o.fake...)
	o.as.keep(e)
	return fakePort{e}, nil
}

// openTCP opens a TCP port before those that there are.
func (o *openings) openTCP(at netip.AddrPort) (port, error) {
	l, err := o.as.a.cfg.Host.TCP.ListenTCP(at)
	if err != nil {
		return nil, err
	}
	bound, err := netip.ParseAddrPort(l.Addr().String())
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	p := &tcpPort{streams: o.as.a.cfg.Host.TCP, local: netip.AddrPortFrom(at.Addr(), bound.Port()), listener: l}
	o.tcp = append([]*tcpPort{p}, o.tcp...)
	return p, nil
}

// opener opens ports of a kind.
func (o *openings) opener(k path.Kind) func(netip.AddrPort) (port, error) {
	if k == path.DirectFakeTCP {
		return o.openFake
	}
	return o.openTCP
}

// openEach opens a port of each family.
func (o *openings) openEach(k path.Kind) error {
	var faults []error
	for _, family := range o.as.a.families() {
		if _, err := o.opener(k)(netip.AddrPortFrom(family, 0)); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// openThrough opens, besides, ports that TCP passes to from the peer's network.
// Where there is one such port, two kinds of path have it by turns.
func (o *openings) openThrough() {
	for _, k := range o.tcpKinds() {
		if len(o.through) == 0 || !o.has(k) {
			continue
		}
		for _, family := range o.as.a.families() {
			if err := o.openOneOf(k, family); err != nil && family.Is4() {
				o.bar(k, err)
			}
		}
	}
}

// openOneOf opens the first of the ports that can be had. What a service of this
// host has is never taken from it: to bind such a port fails.
func (o *openings) openOneOf(k path.Kind, family netip.Addr) error {
	var faults []error
	for _, n := range o.through {
		_, err := o.opener(k)(netip.AddrPortFrom(family, n))
		if err == nil {
			return nil
		}
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// bar notes why a kind has no port that passes.
func (o *openings) bar(k path.Kind, err error) {
	f := &path.Failure{Reason: "port-taken",
		Evidence: fmt.Sprintf("TCP passes from the peer's network to port %s alone, which can't be had here: %v", portsText(o.through), err),
		Advice:   "free that port, or lead it on the router here to another of this host; two kinds of direct path, or two peers, have it by turns"}
	if errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EPERM) {
		f.Reason = "unprivileged"
		f.Advice = "let the agent bind that port: CAP_NET_BIND_SERVICE (AmbientCapabilities= in its systemd unit), or sysctl net.ipv4.ip_unprivileged_port_start"
	}
	if o.barred == nil {
		o.barred = make(map[path.Kind]*path.Failure)
	}
	o.barred[k] = f
}

// port is one of fake TCP or TCP.
type port interface {
	at() netip.AddrPort
	ask(ctx context.Context, server netip.AddrPort) (stun.Result, error)
}

// portSet is the ports of one transport.
type portSet struct {
	*openings
	kind    path.Kind
	over    proto.Transport
	servers []netip.AddrPort // STUN's
	ports   []port
}

func (o *openings) fakePorts(servers []netip.AddrPort) portSet {
	s := portSet{openings: o, kind: path.DirectFakeTCP, over: proto.Transport_TRANSPORT_FAKE_TCP, servers: servers}
	for _, e := range o.fake {
		s.ports = append(s.ports, fakePort{e})
	}
	return s
}

func (o *openings) tcpPorts(servers []netip.AddrPort) portSet {
	s := portSet{openings: o, kind: path.DirectTCP, over: proto.Transport_TRANSPORT_TCP, servers: servers}
	for _, p := range o.tcp {
		s.ports = append(s.ports, p)
	}
	return s
}

// gather finds where the ports may be reached: first those that any would do
// for, whose mapping tells how to go about the others.
func (s portSet) gather(ctx context.Context) gathered {
	plain, chosen := s.split()
	g := s.ask(ctx, plain)
	b := g.tcpBehaviour
	switch nature := punch.NatureOf(punch.Suppose(b, s.attempt)); {
	case nature == punch.Kept:
		return s.unasked(g, chosen)
	case nature != punch.Easy && len(s.through) == 0:
		g.tcpBehaviour = s.sample(ctx, b)
		return g
	case len(chosen) == 0:
		return g
	case b.GetPortPreserving() && b.GetMapping() == proto.Behaviour_DEPENDENCE_UNKNOWN:
		return s.unasked(g, chosen) // to ask might take the port up
	}
	first := s.ask(ctx, chosen)
	first.tcpBehaviour = g.tcpBehaviour // of more ports than these
	first.merge(g)
	return first
}

// split tells the ports that were chosen for the peer's firewall from others.
func (s portSet) split() (plain, chosen []port) {
	for _, p := range s.ports {
		if slices.Contains(s.through, p.at().Port()) {
			chosen = append(chosen, p)
		} else {
			plain = append(plain, p)
		}
	}
	return plain, chosen
}

// ask has STUN servers say where ports are seen.
func (s portSet) ask(ctx context.Context, ports []port) gathered {
	var locals []netip.AddrPort
	for _, p := range ports {
		locals = append(locals, p.at())
	}
	g := s.as.a.hostsOf(locals, s.over)
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, p := range ports {
		wait.Go(func() {
			four := p.at().Addr().Unmap().Is4()
			seen := sightings(ctx, sameFamily(s.servers, four), p.ask)
			mu.Lock()
			defer mu.Unlock()
			g.see(seen, s.over)
			if four && len(seen) > 0 {
				g.tcpBehaviour = behaviourOf(seen, p.at().Port())
			}
		})
	}
	wait.Wait()
	return g
}

// unaskedTCP is how many ports a side opens that its NAT keeps towards the first
// destination. The peer has few candidates over TCP.
const unaskedTCP = 2

// unasked tells of ports that nobody was asked about: the NAT keeps them towards
// the first destination, which is to be the peer. Where the asked ones are seen
// from leads nowhere.
func (s portSet) unasked(g gathered, chosen []port) gathered {
	outside := g.translatedAddr(s.over)
	if !outside.IsValid() {
		return g
	}
	if punch.NatureOf(g.tcpBehaviour) == punch.Kept {
		g.candidates = slices.DeleteFunc(g.candidates, candidate.translated4)
	}
	for len(s.through) == 0 && len(chosen) < unaskedTCP {
		p, err := s.opener(s.kind)(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
		if err != nil {
			break
		}
		chosen = append([]port{p}, chosen...)
	}
	var kept []candidate
	for _, p := range chosen {
		if at := p.at(); at.Addr().Unmap().Is4() {
			kept = append(kept, candidate{proto.CandidateType_CANDIDATE_SERVER_REFLEXIVE, netip.AddrPortFrom(outside, at.Port()), s.over})
		} else {
			kept = append(kept, s.as.a.hostsOf([]netip.AddrPort{at}, s.over).candidates...)
		}
	}
	g.candidates = append(kept, g.candidates...)
	return g
}

// foundOut is how a NAT chooses the ports of TCP. Who has the turn opens ports
// for that; another's must not get between them.
type foundOut struct {
	turn  chan struct{}
	known *proto.Behaviour
}

// sampledTCP is how many new ports tell how the NAT chooses theirs; where they
// follow each other these ports open towards the peer later, and get the next
// ones. sampleSpace is between two of them.
const (
	sampledTCP  = 8
	sampleSpace = 5 * time.Millisecond
)

// sample finds out how the ports of new mappings come about where they depend on
// the destination, and are not kept. What is open then is to go to the peer.
func (s portSet) sample(ctx context.Context, b *proto.Behaviour) *proto.Behaviour {
	select {
	case s.tcpNature.turn <- struct{}{}:
		defer func() { <-s.tcpNature.turn }()
	case <-ctx.Done():
		return b
	}
	known := s.tcpNature.known
	servers := sameFamily(s.servers, true)
	if known.GetPortDelta() == 0 && known != nil || len(servers) == 0 {
		return known
	}
	before := s.count()
	locals, outside := s.askNew(ctx, servers[0])
	if known == nil {
		rule := stun.JudgePorts(locals, outside)
		known = proto.Clone(b)
		known.PortDelta, known.PortLow, known.PortHigh = int32(rule.PortDelta), uint32(rule.PortBand[0]), uint32(rule.PortBand[1])
	}
	if n := len(outside); n > 0 {
		known.LastPort = uint32(outside[n-1])
	}
	s.tcpNature.known = proto.Clone(known)
	if known.GetPortDelta() == 0 {
		s.closeNewest(s.count() - before)
	}
	return known
}

// askNew opens ports and has a server say where it sees them, in their order.
func (s portSet) askNew(ctx context.Context, server netip.AddrPort) (locals, outside []uint16) {
	var wait sync.WaitGroup
	seen := make([]uint16, sampledTCP)
	for i := range seen {
		p, err := s.opener(s.kind)(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
		if err != nil {
			break
		}
		locals = append(locals, p.at().Port())
		wait.Go(func() {
			if r, err := p.ask(ctx, server); err == nil {
				seen[i] = r.Mapped.Port()
			}
		})
		path.Wait(ctx, sampleSpace)
	}
	wait.Wait()
	var asked []uint16
	for i, local := range locals {
		if seen[i] != 0 {
			asked, outside = append(asked, local), append(outside, seen[i])
		}
	}
	return asked, outside
}

// count is how many ports of the kind are open.
func (s portSet) count() int {
	if s.kind == path.DirectFakeTCP {
		return len(s.fake)
	}
	return len(s.tcp)
}

// closeNewest closes ports that are of no use: what was opened last stands first.
func (s portSet) closeNewest(n int) {
	if s.kind == path.DirectFakeTCP {
		s.as.discard(s.fake[:n])
		s.openings.fake = s.fake[n:]
		return
	}
	for _, p := range s.tcp[:n] {
		p.close()
	}
	s.openings.tcp = s.tcp[n:]
}
