package natlab

import (
	"fmt"
	"net/netip"
	"time"
)

// NAT is a network address translator with a network behind it.
type NAT struct {
	station
	inner    *segment
	table    *table // IPv4
	firewall *table // IPv6
	block    Drop
	seed     int
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
	n.table = newTable(b, n.external(), l.rand(name+"/table"))
	n.firewall = newTable(b, nil, l.rand(name+"/firewall"))
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

// external are the IPv4 addresses to translate to.
func (n *NAT) external() []netip.Addr {
	var out []netip.Addr
	for _, p := range n.attachment.addrs {
		if p.Addr().Is4() {
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
	n.table.behaviour = b.withDefaults()
	n.firewall.behaviour = b.withDefaults()
}

// Flush forgets all mappings and flows, as conntrack -F or a restart does.
func (n *NAT) Flush() {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.table.flush()
	n.firewall.flush()
}

// Reseed gives random and sequential ports another beginning, as a restart
// does. Together with Flush, everybody inside then gets other ports.
func (n *NAT) Reseed() {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.seed++
	n.table.rand = n.lab.rand(fmt.Sprintf("%s/table/%d", n.name, n.seed))
	n.table.next = n.table.rand.IntN(1 << 16)
}

// Readdress gives the NAT other external addresses, as a carrier does
// overnight; Linux then forgets the flows of the old ones.
func (n *NAT) Readdress(addrs ...string) {
	n.lab.t.Helper()
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.readdress(addrs)
	n.table.addrs = n.external()
	n.table.flush()
}

// Block drops what test says instead of forwarding it; no mapping is made. Its
// addresses are as inside. Nil ends it.
func (n *NAT) Block(test Drop) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.block = test
}

// BlockUDP lets no UDP through.
func (n *NAT) BlockUDP() {
	n.Block(func(_, _ netip.AddrPort, _ []byte) bool { return true })
}

// Publish forwards an external port to an inside address, as an owner or a
// port mapping protocol would.
func (n *NAT) Publish(port uint16, inside netip.AddrPort) {
	n.lab.mu.Lock()
	defer n.lab.mu.Unlock()
	n.table.publish(netip.AddrPortFrom(n.table.addrs[0], port), inside)
}

// fromInside is what a host inside sent to somewhere else.
func (n *NAT) fromInside(p *parcel) {
	if p = n.forward(p, p); p == nil {
		return
	}
	now := time.Now()
	t := n.tableFor(p.to.Addr())
	hairpin := n.attachment.has(p.to.Addr())
	if hairpin && !t.behaviour.Hairpin {
		n.lab.dropped(p, n.name, DropHairpin)
		return
	}
	v := t.outbound(now, p.from, p.to)
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
	v = t.inbound(now, p.from, p.to)
	if v.why != "" {
		n.lab.dropped(p, n.name, v.why)
		return
	}
	n.lab.translated(p, n.name, p.from, v.addr)
	p.to = v.addr
	n.inner.fromOutside(p)
}

// arrive is what came from outside.
func (n *NAT) arrive(p *parcel) {
	now := time.Now()
	if p.to.Addr().Is6() && n.firewall.behaviour.Open6 {
		if p = n.forward(p, p); p != nil {
			n.inner.fromOutside(p)
		}
		return
	}
	v := n.tableFor(p.to.Addr()).inbound(now, p.from, p.to)
	if v.why != "" {
		n.lab.dropped(p, n.name, v.why)
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

func (n *NAT) tableFor(a netip.Addr) *table {
	if a.Is4() {
		return n.table
	}
	return n.firewall
}

// forward is what a router does: it blocks, by the inside addresses, and takes
// one from the TTL.
func (n *NAT) forward(p, inside *parcel) *parcel {
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
