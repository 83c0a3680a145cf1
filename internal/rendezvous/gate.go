package rendezvous

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// gate decides which TCP connections may stay open. Unlike a QUIC handshake,
// each holds memory from its first byte on, so they are counted by source too.
type gate struct {
	total, perSource int

	mu      sync.Mutex
	open    int
	sources map[netip.Prefix]int
	rate    meters
	refused uint64 // too many are open, or came of late, in all or from that source
}

// rateStreams is how often a source may connect over TCP. A carrier's NAT may
// hide many agents, each with a control connection and one for its relay legs.
var rateStreams = rate{20 * time.Millisecond, 512}

func newGate(total, perSource int) *gate {
	return &gate{total: total, perSource: perSource, sources: map[netip.Prefix]int{}, rate: meters{seed: maphash.MakeSeed()}}
}

// enter lets a connection in; leave must be called once it is closed.
func (g *gate) enter(now time.Time, from netip.Addr) (leave func(), ok bool) {
	source := sourceOf(from)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open >= g.total || g.sources[source] >= g.perSource || !g.rate.take(now, from, rateStreams) {
		g.refused++
		return nil, false
	}
	g.open++
	g.sources[source]++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.open--
		if g.sources[source]--; g.sources[source] <= 0 {
			delete(g.sources, source)
		}
	}, true
}

// sourceOf is what counts as one source: an IPv4 address, or a network of IPv6,
// of which one host may have all addresses.
func sourceOf(a netip.Addr) netip.Prefix {
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

// counts are how many are open, and how many were refused.
func (g *gate) counts() (open int, refused uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.open, g.refused
}
