package natlab

import (
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// segment is a network in which every member reaches every other: the public
// internet, or what lies behind a NAT.
type segment struct {
	lab     *Lab
	name    string
	gateway *NAT // nil: the public internet
	members map[netip.Addr]*attachment
	routes  []route
}

type route struct {
	prefix netip.Prefix
	via    *attachment
}

// attachment is where a host or NAT joins a segment.
type attachment struct {
	segment *segment
	owner   owner
	link    *link
	addrs   []netip.Prefix // the first of a family is its source address
	gone    bool
}

// owner is who stands at the end of a link.
type owner interface {
	arrive(p *parcel)
	title() string
}

// Place is where hosts attach: the lab itself or a NAT.
type Place interface{ segment() *segment }

// Station is a host or a NAT.
type Station interface{ attached() *attachment }

func newSegment(l *Lab, name string, gateway *NAT) *segment {
	return &segment{lab: l, name: name, gateway: gateway, members: map[netip.Addr]*attachment{}}
}

func (s *segment) setup(options []Option) setup {
	c := setup{conditions: conditions{delay: DefaultDelay, mtu: 1500}}
	if s.gateway != nil {
		c.delay = DefaultLANDelay
	}
	for _, o := range options {
		o(&c)
	}
	return c
}

func (s *segment) attach(o owner, addrs []netip.Prefix, c conditions) *attachment {
	s.lab.t.Helper()
	a := &attachment{segment: s, owner: o, addrs: addrs}
	a.link = &link{lab: s.lab, of: a, name: o.title(), conditions: c, rand: s.lab.rand(o.title() + "/link")}
	s.join(a)
	return a
}

func (s *segment) join(a *attachment) {
	s.lab.t.Helper()
	for _, p := range a.addrs {
		if other := s.members[p.Addr()]; other != nil {
			s.lab.t.Fatalf("natlab: %s has address %s already; give %s another", other.owner.title(), p.Addr(), a.owner.title())
		}
		s.members[p.Addr()] = a
	}
}

func (s *segment) leave(a *attachment) {
	for _, p := range a.addrs {
		delete(s.members, p.Addr())
	}
}

// source is the address of the family of to that a sends from.
func (a *attachment) source(to netip.Addr) (netip.Addr, bool) {
	for _, p := range a.addrs {
		if p.Addr().Is4() == to.Is4() {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

func (a *attachment) has(addr netip.Addr) bool {
	for _, p := range a.addrs {
		if p.Addr() == addr {
			return true
		}
	}
	return false
}

// send carries p from a into its segment.
func (a *attachment) send(p *parcel) {
	delay, s := a.link.delay, a.segment
	to := s.find(p.to.Addr())
	if to != nil {
		if half, ok := s.override(a, to); ok {
			delay = half
		}
	}
	a.link.carry(up, p, to, delay)
}

// override is half of the delay set for a pair, for each of its two links.
func (s *segment) override(a, b *attachment) (time.Duration, bool) {
	d, ok := s.lab.delays[[2]*attachment{a, b}]
	return d / 2, ok
}

func (s *segment) find(addr netip.Addr) *attachment {
	if a := s.members[addr]; a != nil {
		return a
	}
	for _, r := range s.routes {
		if r.prefix.Contains(addr) {
			return r.via
		}
	}
	return nil
}

// deliver takes what came from a member to the one it is for, or out.
func (s *segment) deliver(p *parcel, from *attachment) {
	to := s.find(p.to.Addr())
	switch {
	case to != nil && to != from:
		s.cross(p, from, to)
	case s.gateway != nil:
		s.gateway.fromInside(p)
	default:
		s.lab.dropped(p, s.name, DropNoRoute)
	}
}

func (s *segment) cross(p *parcel, from, to *attachment) {
	if s.gateway == nil {
		if p.ttl <= s.lab.options.Hops {
			s.lab.dropped(p, s.name, DropTTL)
			return
		}
		p.ttl -= s.lab.options.Hops
		if !p.passes(s.lab.options.Hops) {
			s.lab.dropped(p, s.name, DropOption)
			return
		}
	}
	delay := to.link.delay
	if from != nil {
		if half, ok := s.override(from, to); ok {
			delay = half
		}
	}
	to.link.carry(down, p, from, delay)
}

// fromOutside takes what the NAT let in to the member it is for.
func (s *segment) fromOutside(p *parcel) {
	to := s.find(p.to.Addr())
	if to == nil {
		s.lab.dropped(p, s.name, DropNoRoute)
		return
	}
	s.cross(p, nil, to)
}

// host attaches a host to s.
func (s *segment) host(name, addr string, options []Option) *Host {
	s.lab.t.Helper()
	s.lab.mu.Lock()
	defer s.lab.mu.Unlock()
	s.lab.claimName(name)
	c := s.setup(options)
	h := newHost(s.lab, name)
	for _, i := range c.interfaces {
		p := s.lab.mustPrefixes(name, []string{i.addr})[0]
		h.local = append(h.local, dgram.HostAddr{Interface: i.name, Addr: p, Up: true})
	}
	h.attachment = s.attach(h, s.lab.mustPrefixes(name, append([]string{addr}, c.also...)), c.conditions)
	s.lab.hosts = append(s.lab.hosts, h)
	s.lab.recorder.lane(name)
	return h
}
