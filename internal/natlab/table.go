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
	byInside  map[pair]*flow
	byOutside map[pair]*flow
	mappings  map[pair][]*mapping // newest first
	byExt     map[netip.AddrPort][]*mapping
	sessions  map[netip.Addr]int
	swept     time.Time
}

// pair is one side of a NAT and the remote address.
type pair struct{ near, remote netip.AddrPort }

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
	peers    map[netip.Addr]time.Time // remote addresses that inside sent to, until when
	explicit bool                     // a port forwarding: never expires, filters nothing
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

// flush forgets all but port forwardings, as conntrack -F does.
func (t *table) flush() {
	old := t.mappings
	t.byInside, t.byOutside = map[pair]*flow{}, map[pair]*flow{}
	t.mappings, t.byExt = map[pair][]*mapping{}, map[netip.AddrPort][]*mapping{}
	t.sessions = map[netip.Addr]int{}
	for _, list := range old {
		for _, m := range list {
			if m.explicit {
				t.insert(m)
			}
		}
	}
}

func (t *table) insert(m *mapping) {
	t.mappings[m.key] = append([]*mapping{m}, t.mappings[m.key]...)
	t.byExt[m.ext] = append(t.byExt[m.ext], m)
}

// publish forwards an external port to an inside address for good.
func (t *table) publish(ext, inside netip.AddrPort) {
	t.insert(&mapping{key: pair{near: inside}, ext: ext, explicit: true, peers: map[netip.Addr]time.Time{}})
}

// outbound is a datagram from inside: it gives the external source address.
func (t *table) outbound(now time.Time, inside, remote netip.AddrPort) verdict {
	t.sweep(now)
	if f := t.byInside[pair{inside, remote}]; f.alive(now) {
		t.refresh(now, f)
		return verdict{addr: f.ext}
	}
	if limit := t.behaviour.Sessions; limit > 0 && t.sessions[inside.Addr()] >= limit {
		t.purge(now)
		if t.sessions[inside.Addr()] >= limit {
			return verdict{why: DropSessions}
		}
	}
	m := t.mapped(now, inside, remote)
	if m == nil {
		ext, ok := t.choose(now, inside, remote)
		if !ok {
			return verdict{why: DropNoPort}
		}
		m = &mapping{key: t.mapKey(inside, remote), ext: ext, peers: map[netip.Addr]time.Time{}}
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
	if f := t.byOutside[pair{ext, remote}]; f.alive(now) {
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
	for _, m := range t.byExt[ext] {
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
		t.byOutside[pair{ext, remote}] = &flow{remote: remote, ext: ext, created: now, expires: now.Add(poisonLifetime)}
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
		return now.Before(m.peers[remote.Addr()])
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
	for _, m := range t.mappings[t.mapKey(inside, remote)] {
		if m.alive(now) && t.free(now, m.ext, remote) {
			return m
		}
	}
	return nil
}

// free says whether no flow holds ext towards remote.
func (t *table) free(now time.Time, ext, remote netip.AddrPort) bool {
	return !t.byOutside[pair{ext, remote}].alive(now)
}

func (t *table) refresh(now time.Time, f *flow) {
	life := t.behaviour.Unreplied
	if f.replied && (t.tcp || !now.Before(f.created.Add(streamAge))) {
		life = t.behaviour.Lifetime
	}
	f.expires = later(f.expires, now.Add(life))
	f.mapping.expires = later(f.mapping.expires, f.expires)
	f.mapping.peers[f.remote.Addr()] = later(f.mapping.peers[f.remote.Addr()], f.expires)
}

func (t *table) add(f *flow) {
	t.remove(t.byInside[pair{f.inside, f.remote}])
	t.remove(t.byOutside[pair{f.ext, f.remote}])
	t.byInside[pair{f.inside, f.remote}] = f
	t.byOutside[pair{f.ext, f.remote}] = f
	t.sessions[f.inside.Addr()]++
}

func (t *table) remove(f *flow) {
	if f == nil {
		return
	}
	if k := (pair{f.ext, f.remote}); t.byOutside[k] == f {
		delete(t.byOutside, k)
	}
	if f.mapping == nil {
		return
	}
	if k := (pair{f.inside, f.remote}); t.byInside[k] == f {
		delete(t.byInside, k)
	}
	a := f.inside.Addr()
	if t.sessions[a]--; t.sessions[a] == 0 {
		delete(t.sessions, a)
	}
}

// sweep throws away what has expired, now and then: look-ups judge expiry by
// themselves.
func (t *table) sweep(now time.Time) {
	if now.Before(t.swept.Add(10 * time.Second)) {
		return
	}
	t.swept = now
	t.purge(now)
}

func (t *table) purge(now time.Time) {
	for _, f := range t.byOutside {
		if !f.alive(now) {
			t.remove(f)
		}
	}
	for k, list := range t.mappings {
		if list = living(now, list); len(list) == 0 {
			delete(t.mappings, k)
		} else {
			t.mappings[k] = list
		}
	}
	for ext, list := range t.byExt {
		if list = living(now, list); len(list) == 0 {
			delete(t.byExt, ext)
		} else {
			t.byExt[ext] = list
		}
	}
}

func living(now time.Time, list []*mapping) []*mapping {
	var out []*mapping
	for _, m := range list {
		if m.alive(now) {
			out = append(out, m)
		}
	}
	return out
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
