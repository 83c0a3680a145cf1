package natlab

import (
	"fmt"
	"net/netip"
	"time"
)

// NAT is a network address translator with a network behind it.
type NAT struct {
	station
	inner *segment
	udp   tables
	tcp   tables
	block Drop
	noUDP bool
	seed  int
}

// tables are those of one protocol.
type tables struct {
	nat      *table // IPv4
	firewall *table // IPv6
}

func (n *NAT) tables() []*table {
	return []*table{n.udp.nat, n.udp.firewall, n.tcp.nat, n.tcp.firewall}
}

func (s *segment) nat(name, addr string, b Behaviour, options []Option) *NAT {
	l := s.lab
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.claimName(name)
	c := s.setup(options)
	n := &NAT{station: station{lab: l, name: name}}
	n.inner = newSegment(l, "behind "+name, n)
	n.attachment = s.attach(n, l.mustPrefixes(name, append([]string{addr}, c.also...)), c.conditions)
	var six []netip.Addr
	if b.NAT66 {
		six = n.external(netip.Addr.Is6)
	}
	n.udp = tables{newTable(b, n.external(netip.Addr.Is4), l.rand(name+"/table")), newTable(b, six, l.rand(name+"/firewall"))}
	n.tcp = tables{newTCPTable(b, n.external(netip.Addr.Is4), l.rand(name+"/tcp")), newTCPTable(b, six, l.rand(name+"/tcp6"))}
	for _, text := range c.prefixes {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			l.t.Fatalf("natlab: prefix of %s: %v", name, err)
		}
		n.routePrefix(p)
	}
	l.recorder.lane(name)
	return n
}

// routePrefix makes p lead to n in its own network and in those around it,
// the narrowest prefix first.
func (n *NAT) routePrefix(p netip.Prefix) {
	for a := n.attachment; ; a = a.segment.gateway.attachment {
		routes := a.segment.routes
		i := 0
		for i < len(routes) && routes[i].prefix.Bits() >= p.Bits() {
			i++
		}
		routes = append(routes[:i:i], append([]route{{p, a}}, routes[i:]...)...)
		a.segment.routes = routes
		if a.segment.gateway == nil {
			return
		}
	}
}

func (n *NAT) segment() *segment { return n.inner }

// external are the addresses of a family to translate to.
func (n *NAT) external(family func(netip.Addr) bool) []netip.Addr {
	var out []netip.Addr
	for _, p := range n.attachment.addrs {
		if family(p.Addr()) {
			out = append(out, p.Addr())
		}
	}
	return out
}

// Host attaches a host behind the NAT.
func (n *NAT) Host(name, addr string, options ...Option) *Host {
	n.lab.t.Helper()
	return n.inner.host(name, addr, options)
}

// NAT attaches another NAT behind this one.
func (n *NAT) NAT(name, addr string, b Behaviour, options ...Option) *NAT {
	n.lab.t.Helper()
	return n.inner.nat(name, addr, b, options)
}

// Behave changes the behaviour; what is mapped stays so.
func (n *NAT) Behave(b Behaviour) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	for _, t := range n.tables() {
		t.behave(b)
	}
}

// Flush forgets all mappings and flows, as conntrack -F or a restart does.
func (n *NAT) Flush() {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	for _, t := range n.tables() {
		t.flush()
	}
}

// Forget ends what is mapped towards all remotes but those to keep, and is
// Flush for the rest.
func (n *NAT) Forget(keep func(remote netip.AddrPort) bool) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	for _, t := range n.tables() {
		t.forget(keep)
	}
}

// Reseed gives random and sequential ports another beginning, as a restart
// does. Together with Flush, everybody inside then gets other ports.
func (n *NAT) Reseed() {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.seed++
	for t, name := range map[*table]string{n.udp.nat: "table", n.tcp.nat: "tcp"} {
		t.rand = n.lab.rand(fmt.Sprintf("%s/%s/%d", n.name, name, n.seed))
		t.next = t.rand.IntN(1 << 16)
	}
}

// Readdress gives the NAT other external addresses, as a carrier does
// overnight; Linux then forgets the flows of the old ones.
func (n *NAT) Readdress(addrs ...string) {
	n.lab.t.Helper()
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.readdress(addrs)
	for _, t := range []*table{n.udp.nat, n.tcp.nat} {
		t.addrs = n.external(netip.Addr.Is4)
		t.flush()
	}
}

// Block drops what test says instead of forwarding it; no mapping is made. Its
// addresses are as inside. Nil ends it, and BlockUDP.
func (n *NAT) Block(test Drop) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.block, n.noUDP = test, false
}

// BlockUDP lets no UDP through; Block(nil) ends it.
func (n *NAT) BlockUDP() {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.noUDP = true
}

// Publish forwards an external UDP port to an inside address, as an owner or a
// port mapping protocol would.
func (n *NAT) Publish(port uint16, inside netip.AddrPort) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.udp.nat.publish(netip.AddrPortFrom(n.udp.nat.addrs[0], port), inside)
}

// PublishTCP does the same with a TCP port.
func (n *NAT) PublishTCP(port uint16, inside netip.AddrPort) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.tcp.nat.publish(netip.AddrPortFrom(n.tcp.nat.addrs[0], port), inside)
}

// fromInside is what a host inside sent to somewhere else.
func (n *NAT) fromInside(p *parcel) {
	if !p.passes(1) {
		n.lab.dropped(p, n.name, DropOption)
		return
	}
	if p = n.forward(p, p); p == nil {
		return
	}
	now := time.Now()
	t := n.tableFor(p)
	hairpin := n.attachment.has(p.to.Addr())
	if hairpin && !t.behaviour.Hairpin {
		n.lab.dropped(p, n.name, DropHairpin)
		return
	}
	v := t.leaves(now, p.label().TCP, p.from, p.to)
	if v.why != "" {
		n.lab.dropped(p, n.name, v.why)
		return
	}
	n.lab.translated(p, n.name, v.addr, p.to)
	p.from = v.addr
	if !hairpin {
		n.attachment.send(p)
		return
	}
	v = t.enters(now, p.label().TCP, p.from, p.to)
	if v.why != "" {
		n.refuse(p, v.why, n.arrive)
		return
	}
	n.lab.translated(p, n.name, p.from, v.addr)
	p.to = v.addr
	n.inner.fromOutside(p)
}

// arrive is what came from outside.
func (n *NAT) arrive(p *parcel) {
	if !p.passes(1) {
		n.lab.dropped(p, n.name, DropOption)
		return
	}
	now := time.Now()
	if p.to.Addr().Is6() && n.udp.firewall.behaviour.Open6 {
		if p = n.forward(p, p); p != nil {
			n.inner.fromOutside(p)
		}
		return
	}
	v := n.tableFor(p).enters(now, p.label().TCP, p.from, p.to)
	if v.why != "" {
		n.refuse(p, v.why, n.attachment.send)
		return
	}
	inside := *p
	inside.to = v.addr
	q := n.forward(p, &inside)
	if q == nil {
		return
	}
	n.lab.translated(p, n.name, p.from, v.addr)
	q.last, q.to = n.name, v.addr
	n.inner.fromOutside(q)
}

// refuse drops p, and answers it when that is the verdict.
func (n *NAT) refuse(p *parcel, why Reason, send func(*parcel)) {
	n.lab.dropped(p, n.name, why)
	if why != DropReset {
		return
	}
	rst := p.answer(n.name)
	n.lab.number(rst, n.name)
	send(rst)
}

func (n *NAT) tableFor(p *parcel) *table {
	t := n.udp
	if p.tcp != nil {
		t = n.tcp
	}
	if p.to.Addr().Is4() {
		return t.nat
	}
	return t.firewall
}

// forward is what a router does: it blocks, by the inside addresses, and takes
// one from the TTL.
func (n *NAT) forward(p, inside *parcel) *parcel {
	if n.noUDP && p.tcp == nil {
		n.lab.dropped(p, n.name, DropBlocked)
		return nil
	}
	if n.block != nil {
		rest, gone := p.split(func(b []byte) bool { return n.block(inside.from, inside.to, b) })
		if gone != nil {
			n.lab.dropped(gone, n.name, DropBlocked)
		}
		if rest == nil {
			return nil
		}
		p = rest
	}
	if p.ttl <= 1 {
		n.lab.dropped(p, n.name, DropTTL)
		return nil
	}
	p.ttl--
	return p
}
