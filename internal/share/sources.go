package share

import (
	"net/netip"
	"sync"
)

// sources count what is open, of each source and in all.
type sources struct {
	most, perSource int

	mu   sync.Mutex
	open int
	of   map[netip.Prefix]int
}

func newSources(most, perSource int) sources {
	return sources{most: most, perSource: perSource, of: map[netip.Prefix]int{}}
}

// enter says whether one more may come; if so, leave must follow.
func (s *sources) enter(from netip.Addr) bool {
	source := sourceOf(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open >= s.most || s.of[source] >= s.perSource {
		return false
	}
	s.open++
	s.of[source]++
	return true
}

func (s *sources) leave(from netip.Addr) {
	source := sourceOf(from)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open--
	if s.of[source]--; s.of[source] <= 0 {
		delete(s.of, source)
	}
}

// sourceOf is what counts as one source: an IPv4 address, or a network of IPv6,
// of which one host may have all addresses.
func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
