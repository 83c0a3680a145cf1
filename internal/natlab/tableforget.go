package natlab

import (
	"net/netip"
	"slices"
	"time"
)

// flush forgets all but port forwardings, as conntrack -F does.
func (t *table) flush() {
	old := t.mappings
	t.byInside, t.byOutside = map[ends]*flow{}, map[ends]*flow{}
	t.mappings, t.byExt = map[ends][]*mapping{}, map[place][]*mapping{}
	t.held = held{sessions: map[netip.Addr]int{}, mappings: map[netip.Addr]int{}}
	for _, list := range old {
		for _, m := range list {
			if m.explicit {
				t.insert(m)
			}
		}
	}
}

// forget ends the flows with other remotes than those to keep, and the
// mappings that have no other left. What stays goes into maps of its own: a map
// keeps the memory that it once took, and whoever walks over it walks over all
// of that.
func (t *table) forget(keep func(remote netip.AddrPort) bool) {
	if len(t.byOutside) == 0 && len(t.mappings) == 0 {
		return
	}
	old := *t
	t.byInside, t.byOutside = map[ends]*flow{}, map[ends]*flow{}
	t.held = held{sessions: map[netip.Addr]int{}, mappings: map[netip.Addr]int{}}
	kept := map[*mapping]bool{}
	for _, f := range old.byOutside {
		switch {
		case !keep(f.remote):
		case f.mapping == nil:
			t.byOutside[pair{f.ext, f.remote}.key()] = f
		default:
			kept[f.mapping] = true
			t.add(f)
		}
	}
	gone := func(m *mapping) bool { return !m.explicit && !kept[m] }
	t.mappings, t.byExt = without(old.mappings, gone), without(old.byExt, gone)
	for m := range kept {
		if !m.explicit {
			t.held.mappings[m.key.near.Addr()]++
		}
	}
}

// without is m without those mappings.
func without[K comparable](m map[K][]*mapping, gone func(m *mapping) bool) map[K][]*mapping {
	out := make(map[K][]*mapping)
	for k, list := range m {
		if list = slices.DeleteFunc(list, gone); len(list) > 0 {
			out[k] = list
		}
	}
	return out
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
	t.drop(func(m *mapping) bool { return !m.alive(now) })
}

// drop ends the mappings for which gone is true.
func (t *table) drop(gone func(m *mapping) bool) {
	for k, list := range t.mappings {
		before, a := len(list), list[0].key.near.Addr()
		if list = slices.DeleteFunc(list, gone); len(list) == before {
			continue
		}
		if t.held.mappings[a] -= before - len(list); t.held.mappings[a] == 0 {
			delete(t.held.mappings, a)
		}
		if len(list) == 0 {
			delete(t.mappings, k)
		} else {
			t.mappings[k] = list
		}
	}
	for at, list := range t.byExt {
		before := len(list)
		if list = slices.DeleteFunc(list, gone); len(list) == before {
			continue
		}
		if len(list) == 0 {
			delete(t.byExt, at)
		} else {
			t.byExt[at] = list
		}
	}
}
