package rendezvous

import (
	"net/netip"
	"sync/atomic"
	"time"

	"rendezvous/internal/sources"
)

// gate decides which TCP connections may stay open. Unlike a QUIC handshake,
// each holds memory from its first byte on, so they are counted by source too.
type gate struct {
	open    *sources.Count
	rate    *sources.Buckets
	refused atomic.Uint64 // too many are open, or came of late, in all or from that source
}

// rateStreams is how often a source may connect over TCP. A carrier's NAT may
// hide many agents, each with a control connection and one for its relay legs.
var rateStreams = sources.Rate{Every: 20 * time.Millisecond, Burst: 512}

func newGate(total, perSource int) *gate {
	return &gate{open: sources.NewCount(total, perSource), rate: sources.NewBuckets()}
}

// enter lets a connection in; leave must be called once it is closed.
func (g *gate) enter(now time.Time, from netip.Addr) (leave func(), ok bool) {
	if !g.open.Enter(from) {
		g.refused.Add(1)
		return nil, false
	}
	leave = func() { g.open.Leave(from) }
	if !g.rate.Take(now, from, rateStreams) {
		leave()
		g.refused.Add(1)
		return nil, false
	}
	return leave, true
}
