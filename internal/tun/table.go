package tun

import (
	"container/list"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/path"
)

// Lifetime is how long an inside address stands for somebody who is silent.
const Lifetime = 5 * time.Minute

// MostEntries bounds a family's addresses in use, whatever its span holds.
const MostEntries = 16384

// identity is who an inside address stands for. Without authentication it is
// the way that datagrams come by. Of the flows of a session it is the loopback
// address by which the agent tells its peers apart, and what the peer's process
// calls itself there.
type identity struct {
	way   path.Path // zero where the others are not
	alias netip.Addr
	id    ID
	six   bool
}

// entry is one inside address in use.
type entry struct {
	who      identity
	inside   netip.Addr
	way      path.Path
	used     time.Time
	answered bool // a packet went back
	recent   *list.Element
}

// table gives identities inside addresses, for as long as they are used. When a
// family has no more, the least recently used makes room, first one that was
// never answered. It is safe for concurrent use.
type table struct {
	lifetime time.Duration

	mu       sync.Mutex
	pools    [2]pool // IPv4's and IPv6's
	byWho    map[identity]*entry
	byWay    map[path.Path]*entry
	byInside map[netip.Addr]*entry
}

// pool hands out the addresses of a span in turn, so that one is used again as
// late as possible.
type pool struct {
	span   Span
	most   int // that are in use at once
	used   int
	next   int
	recent [2]list.List // unanswered and answered entries, the most recently used first
}

func newTable(four, six Span) *table {
	t := &table{lifetime: Lifetime, byWho: make(map[identity]*entry), byWay: make(map[path.Path]*entry), byInside: make(map[netip.Addr]*entry)}
	for i, span := range []Span{four, six} {
		if span.IsValid() {
			t.pools[i] = pool{span: span, most: min(MostEntries, span.peers())}
		}
	}
	return t
}

// source is the inside address of who sends by a way, if it has one.
func (t *table) source(now time.Time, way path.Path) (netip.Addr, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byWay[way]
	if e == nil || t.expired(e, now) {
		return netip.Addr{}, false
	}
	t.touch(e, now)
	return e.inside, true
}

// route is the way to who has an inside address.
func (t *table) route(now time.Time, inside netip.Addr) (path.Path, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	e := t.byInside[inside]
	if e == nil || t.expired(e, now) {
		return path.Path{}, false
	}
	if !e.answered {
		t.list(e).Remove(e.recent)
		e.answered = true
		e.recent = t.list(e).PushFront(e)
	}
	t.touch(e, now)
	return e.way, true
}

// meet gives somebody an inside address, or finds it, and notes by which way
// to reach them from now on. The address is invalid where the family has none.
func (t *table) meet(now time.Time, who identity, way path.Path) (inside netip.Addr, isNew bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.expire(now)
	e := t.byWho[who]
	if isNew = e == nil; isNew {
		if e = t.add(who); e == nil {
			return netip.Addr{}, false
		}
	}
	if e.way != way {
		if t.byWay[e.way] == e {
			delete(t.byWay, e.way)
		}
		if other := t.byWay[way]; other != nil {
			t.remove(other) // the port is somebody else's now
		}
		e.way = way
		t.byWay[way] = e
	}
	t.touch(e, now)
	return e.inside, isNew
}

// add makes an entry without a way, and room for it. t.mu is held.
func (t *table) add(who identity) *entry {
	p := t.pool(who)
	if p.most == 0 {
		return nil
	}
	if p.used >= p.most {
		oldest := p.recent[0].Back()
		if oldest == nil {
			oldest = p.recent[1].Back()
		}
		t.remove(oldest.Value.(*entry))
	}
	e := &entry{who: who, inside: p.take()}
	for t.byInside[e.inside] != nil {
		e.inside = p.take()
	}
	p.used++
	t.byWho[who], t.byInside[e.inside] = e, e
	e.recent = t.list(e).PushFront(e)
	return e
}

func (t *table) pool(who identity) *pool {
	if who.six {
		return &t.pools[1]
	}
	return &t.pools[0]
}

func (p *pool) take() netip.Addr {
	addr := p.span.Peer(p.next)
	p.next = (p.next + 1) % p.span.peers()
	return addr
}

// expire removes what was silent too long. t.mu is held.
func (t *table) expire(now time.Time) {
	for i := range t.pools {
		for k := range t.pools[i].recent {
			all := &t.pools[i].recent[k]
			for at := all.Back(); at != nil && t.expired(at.Value.(*entry), now); at = all.Back() {
				t.remove(at.Value.(*entry))
			}
		}
	}
}

func (t *table) expired(e *entry, now time.Time) bool { return now.Sub(e.used) > t.lifetime }

// touch notes that an entry is in use. t.mu is held.
func (t *table) touch(e *entry, now time.Time) {
	e.used = now
	t.list(e).MoveToFront(e.recent)
}

func (t *table) list(e *entry) *list.List {
	p := t.pool(e.who)
	if e.answered {
		return &p.recent[1]
	}
	return &p.recent[0]
}

// remove forgets an entry. t.mu is held.
func (t *table) remove(e *entry) {
	t.list(e).Remove(e.recent)
	t.pool(e.who).used--
	delete(t.byWho, e.who)
	delete(t.byInside, e.inside)
	if t.byWay[e.way] == e {
		delete(t.byWay, e.way)
	}
}

// size is how many addresses are in use.
func (t *table) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byWho)
}
