// Package sources bounds what those who send to us may take, by where they send
// from: how many things at once, and how often.
package sources

import (
	"net/netip"
	"sync"
)

// Of is what counts as one source: an IPv4 address, or a /64 of IPv6, of which
// one host may have all addresses. It is the zero prefix for no address.
func Of(a netip.Addr) netip.Prefix {
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

// Count is of what is open, in all and of each source. Its methods may be called
// from many goroutines.
type Count struct {
	most, perSource int

	mu   sync.Mutex
	open int
	of   map[netip.Prefix]int
}

// NewCount lets so many be open at once, and so many of one source.
func NewCount(most, perSource int) *Count {
	return &Count{most: most, perSource: perSource, of: map[netip.Prefix]int{}}
}

// Enter says whether one more may come; if so, Leave must follow.
func (c *Count) Enter(from netip.Addr) bool {
	source := Of(from)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open >= c.most || c.of[source] >= c.perSource {
		return false
	}
	c.open++
	c.of[source]++
	return true
}

// Leave is for one that is closed.
func (c *Count) Leave(from netip.Addr) {
	source := Of(from)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	if c.of[source]--; c.of[source] <= 0 {
		delete(c.of, source)
	}
}

// Open is how many are, and of how many sources.
func (c *Count) Open() (all, of int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.open, len(c.of)
}
