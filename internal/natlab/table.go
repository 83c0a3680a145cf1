package natlab

import (
	"math/rand/v2"
	"net/netip"
	"time"
)

// streamAge is how old an answered flow must be for Linux to give it the
// longer lifetime (nf_conntrack_proto_udp.c).
const streamAge = 2 * time.Second

// poisonLifetime is nf_conntrack_udp_timeout: the entry that unsolicited input
// made is never answered.
const poisonLifetime = 30 * time.Second

// verdict is what became of a datagram at the table.
type verdict struct {
	addr netip.AddrPort // what the near address becomes
	why  Reason         // not empty: dropped
}

// table is a NAT's state: flows as Linux's connection tracking has them, and
// the mappings that they share. It only computes: each method takes the time.
type table struct {
	behaviour Behaviour
	tcp       bool
	addrs     []netip.Addr // external ones; none: a firewall, which translates nothing
	rand      *rand.Rand
	next      int // sequential: the port after the last
	byInside  map[ends]*flow
	byOutside map[ends]*flow
	mappings  map[ends][]*mapping // newest first
	byExt     map[place][]*mapping
	held      held
	others    time.Time // when ports were last taken by the traffic of others
	swept     time.Time
}

// held is what each host inside has at present.
type held struct {
	sessions map[netip.Addr]int // flows
	mappings map[netip.Addr]int
}

// pair is one side of a NAT and the remote address.
type pair struct{ near, remote netip.AddrPort }

// place is an address as a key of maps: plain bytes are hashed several times as
// fast as a netip.AddrPort. A table is of one family.
type place [18]byte

// ends is a pair as such a key.
type ends [36]byte

func placeOf(a netip.AddrPort) (p place) {
	b := a.Addr().As16()
	copy(p[:], b[:])
	p[16], p[17] = byte(a.Port()>>8), byte(a.Port())
	return p
}

func (p pair) key() (e ends) {
	near, remote := placeOf(p.near), placeOf(p.remote)
	copy(e[:], near[:])
	copy(e[18:], remote[:])
	return e
}

type flow struct {
	inside, remote, ext netip.AddrPort
	mapping             *mapping // nil: unsolicited input that the NAT accepted
	created, expires    time.Time
	replied             bool
}

type mapping struct {
	key      pair
	ext      netip.AddrPort
	expires  time.Time
	ends     time.Time // whatever is sent; zero: never
	peers    []spoken  // remote addresses that inside sent to
	explicit bool      // a port forwarding: never expires, filters nothing
}

// spoken is an address that was sent to; the filter knows it for a time. A
// mapping has few of them, and there are many mappings.
type spoken struct {
	addr  netip.Addr
	until time.Time
}

// spoke notes that remote was sent to.
func (m *mapping) spoke(remote netip.Addr, until time.Time) {
	for i := range m.peers {
		if m.peers[i].addr == remote {
			m.peers[i].until = later(m.peers[i].until, until)
			return
		}
	}
	m.peers = append(m.peers, spoken{remote, until})
}

// knows says whether remote was sent to, not too long ago.
func (m *mapping) knows(now time.Time, remote netip.Addr) bool {
	for _, p := range m.peers {
		if p.addr == remote {
			return now.Before(p.until)
		}
	}
	return false
}

func newTable(b Behaviour, addrs []netip.Addr, r *rand.Rand) *table {
	t := &table{behaviour: b.withDefaults(), addrs: addrs, rand: r}
	t.flush()
	return t
}

func newTCPTable(b Behaviour, addrs []netip.Addr, r *rand.Rand) *table {
	t := &table{behaviour: b.forTCP().withTCPDefaults(), addrs: addrs, rand: r, tcp: true}
	t.flush()
	return t
}

// behave changes the behaviour; what is mapped stays so.
func (t *table) behave(b Behaviour) {
	if t.tcp {
		t.behaviour = b.forTCP().withTCPDefaults()
	} else {
		t.behaviour = b.withDefaults()
	}
}

func (t *table) insert(m *mapping) {
	from, at := m.key.key(), placeOf(m.ext)
	t.mappings[from] = append([]*mapping{m}, t.mappings[from]...)
	t.byExt[at] = append(t.byExt[at], m)
	if !m.explicit {
		t.held.mappings[m.key.near.Addr()]++
	}
}

// publish forwards an external port to an inside address for good.
func (t *table) publish(ext, inside netip.AddrPort) {
	t.insert(&mapping{key: pair{near: inside}, ext: ext, explicit: true})
}

// outbound is a datagram from inside: it gives the external source address.
func (t *table) outbound(now time.Time, inside, remote netip.AddrPort) verdict {
	t.sweep(now)
	if f := t.byInside[pair{inside, remote}.key()]; f.alive(now) {
		t.refresh(now, f)
		return verdict{addr: f.ext}
	}
	if limit := t.behaviour.Sessions; limit > 0 && t.held.sessions[inside.Addr()] >= limit {
		t.purge(now)
		if t.held.sessions[inside.Addr()] >= limit {
			return verdict{why: DropSessions}
		}
	}
	m := t.mapped(now, inside, remote)
	if m == nil {
		if limit := t.behaviour.Mappings; limit > 0 && t.held.mappings[inside.Addr()] >= limit {
			t.purge(now)
			if t.held.mappings[inside.Addr()] >= limit {
				return verdict{why: DropMappings}
			}
		}
		ext, ok := t.choose(now, inside, remote)
		if !ok {
			return verdict{why: DropNoPort}
		}
		m = &mapping{key: t.mapKey(inside, remote), ext: ext}
		if t.behaviour.Absolute > 0 {
			m.ends = now.Add(t.behaviour.Absolute)
		}
		t.insert(m)
	}
	f := &flow{inside: inside, remote: remote, ext: m.ext, mapping: m, created: now}
	t.add(f)
	t.refresh(now, f)
	return verdict{addr: m.ext}
}

// inbound is a datagram from outside: it gives the inside destination.
func (t *table) inbound(now time.Time, remote, ext netip.AddrPort) verdict {
	t.sweep(now)
	if f := t.byOutside[pair{ext, remote}.key()]; f.alive(now) {
		if f.mapping == nil {
			f.expires = now.Add(poisonLifetime)
			return verdict{why: DropAccepted}
		}
		f.replied = true
		if t.behaviour.InboundRefresh {
			t.refresh(now, f)
		}
		return verdict{addr: f.inside}
	}
	for _, m := range t.byExt[placeOf(ext)] {
		if m.alive(now) && t.admits(now, m, remote) {
			t.add(t.answered(now, m, remote))
			return verdict{addr: m.key.near}
		}
	}
	switch t.behaviour.Unsolicited {
	case AcceptUnsolicited:
		if len(t.addrs) == 0 { // a firewall forwards; nothing is addressed to itself
			return verdict{why: DropFiltered}
		}
		t.byOutside[pair{ext, remote}.key()] = &flow{remote: remote, ext: ext, created: now, expires: now.Add(poisonLifetime)}
		return verdict{why: DropAccepted}
	case RejectUnsolicited:
		return verdict{why: DropRejected}
	}
	return verdict{why: DropFiltered}
}

// answered is the flow of a stranger that was let in. What inside answers
// leaves by the address at which the stranger came.
func (t *table) answered(now time.Time, m *mapping, remote netip.AddrPort) *flow {
	f := &flow{inside: m.key.near, remote: remote, ext: m.ext, mapping: m, created: now, replied: true}
	f.expires = m.expires
	if m.explicit || t.behaviour.InboundRefresh {
		f.expires = later(f.expires, now.Add(t.behaviour.Unreplied))
		m.expires = later(m.expires, f.expires)
	}
	return f
}

// admits is the filter.
func (t *table) admits(now time.Time, m *mapping, remote netip.AddrPort) bool {
	if m.explicit {
		return true
	}
	switch t.behaviour.Filtering {
	case EndpointIndependent:
		return true
	case AddressDependent:
		return m.knows(now, remote.Addr())
	}
	return false // its flow would have been found
}

func (t *table) mapKey(inside, remote netip.AddrPort) pair {
	switch t.behaviour.Mapping {
	case AddressDependent:
		return pair{inside, netip.AddrPortFrom(remote.Addr(), 0)}
	case AddressAndPortDependent:
		return pair{inside, remote}
	}
	return pair{near: inside}
}

// mapped is the newest mapping that serves and whose address is free towards
// remote.
func (t *table) mapped(now time.Time, inside, remote netip.AddrPort) *mapping {
	for _, m := range t.mappings[t.mapKey(inside, remote).key()] {
		if m.alive(now) && t.free(now, m.ext, remote) {
			return m
		}
	}
	return nil
}

// free says whether no flow holds ext towards remote.
func (t *table) free(now time.Time, ext, remote netip.AddrPort) bool {
	return !t.byOutside[pair{ext, remote}.key()].alive(now)
}

func (t *table) refresh(now time.Time, f *flow) {
	life := t.behaviour.Unreplied
	if f.replied && (t.tcp || !now.Before(f.created.Add(streamAge))) {
		life = t.behaviour.Lifetime
	}
	f.expires = later(f.expires, now.Add(life))
	f.mapping.expires = later(f.mapping.expires, f.expires)
	f.mapping.spoke(f.remote.Addr(), f.expires)
}

func (t *table) add(f *flow) {
	from, at := pair{f.inside, f.remote}.key(), pair{f.ext, f.remote}.key()
	t.remove(t.byInside[from])
	t.remove(t.byOutside[at])
	t.byInside[from], t.byOutside[at] = f, f
	t.held.sessions[f.inside.Addr()]++
}

func (t *table) remove(f *flow) {
	if f == nil {
		return
	}
	if k := (pair{f.ext, f.remote}).key(); t.byOutside[k] == f {
		delete(t.byOutside, k)
	}
	if f.mapping == nil {
		return
	}
	if k := (pair{f.inside, f.remote}).key(); t.byInside[k] == f {
		delete(t.byInside, k)
	}
	a := f.inside.Addr()
	if t.held.sessions[a]--; t.held.sessions[a] == 0 {
		delete(t.held.sessions, a)
	}
}

func (f *flow) alive(now time.Time) bool {
	return f != nil && now.Before(f.expires) && (f.mapping == nil || !f.mapping.ended(now))
}

func (m *mapping) alive(now time.Time) bool {
	return m.explicit || now.Before(m.expires) && !m.ended(now)
}

// ended says whether the mapping's absolute lifetime is over.
func (m *mapping) ended(now time.Time) bool { return !m.ends.IsZero() && !now.Before(m.ends) }

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
