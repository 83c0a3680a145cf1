package rendezvous

import (
	"cmp"
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/dgram"
	"rendezvous/internal/relay"
	"rendezvous/internal/sources"
)

// Limits bound what agents may take. A zero field takes its default, so the
// zero Limits are the defaults.
type Limits struct {
	// Connections that are open at once, of agents and strangers.
	Connections int
	// ConnectionsPerSource that are open at once over TCP, of an IPv4 address
	// or a /64 of IPv6.
	ConnectionsPerSource int
	// Introductions that wait for an answer at once.
	Introductions int
	Relay         relay.Limits
}

// Defaults of Limits. A connection costs about 5 kB, and 50 kB while it is QUIC
// (resident memory with thousands of idle agents, 2026-11).
const (
	defaultConnections   = 65536
	defaultPerSource     = 512 // a carrier's NAT may hide many agents
	defaultIntroductions = 65536
)

func (l Limits) withDefaults() Limits {
	return Limits{
		Connections:          cmp.Or(l.Connections, defaultConnections),
		ConnectionsPerSource: cmp.Or(l.ConnectionsPerSource, defaultPerSource),
		Introductions:        cmp.Or(l.Introductions, defaultIntroductions),
		Relay:                l.Relay,
	}
}

// The rates. A raw flow takes an introduction, so a dial with 200 clients
// takes 200 at once.
var (
	rateRequests = sources.Rate{Every: 100 * time.Millisecond, Burst: 600}  // of an agent, of any kind
	rateFlood    = sources.Rate{Every: 10 * time.Millisecond, Burst: 6000}  // of an agent: beyond, it is cut off
	rateAsks     = sources.Rate{Every: 200 * time.Millisecond, Burst: 400}  // introductions by an agent
	rateOffers   = sources.Rate{Every: 100 * time.Millisecond, Burst: 1000} // introductions to an agent
	rateStranger = sources.Rate{Every: 500 * time.Millisecond, Burst: 16}   // connections from a source whose address is not proven
	rateAnybody  = sources.Rate{Every: 5 * time.Millisecond, Burst: 400}    // such connections from all sources
	rateProven   = sources.Rate{Every: 50 * time.Millisecond, Burst: 256}   // connections from a source with a proven address; a carrier's NAT may hide many agents
)

// door decides who may open a control connection.
type door struct {
	connections int // allowed at once

	mu               sync.Mutex
	strangers        *sources.Buckets
	proven           *sources.Buckets
	anybody          sources.Bucket
	open             int // of them all
	quic             int // of these, those that are QUIC's
	shaking          int // of these, those whose handshake has not ended
	refused, retried uint64
}

// quicPart is which part of the connections may be QUIC's: most agents soon
// leave that, and who does not costs ten times as much. That is no limit where it
// would be below leastQUIC.
const (
	quicPart  = 4
	leastQUIC = 64
)

// Handshakes that are under way at once. With more, each would wait for the
// processor until its agent has given up, and all the work would be for
// nothing: after a restart, all agents come at once. One is under way for a
// round trip to its agent when there is no such queue, so half of them is above
// what a thousand agents a second need at 200 ms.
const (
	mostShaking = 512
	busyShaking = mostShaking / 2 // then nobody is told to come
)

// busy says whether agents should rather come later.
func (d *door) busy() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.shaking >= busyShaking
}

func newDoor(connections int) *door {
	return &door{
		connections: connections,
		strangers:   sources.NewBuckets(),
		proven:      sources.NewBuckets(),
	}
}

var errDoor = errors.New("too many control connections; try again later")

// unproven says whether a source must first prove its address with a Retry
// (RFC 9000 section 8.1.2), which costs it a round trip: so forged addresses
// use up nobody's share.
func (d *door) unproven(addr net.Addr) bool {
	now := time.Now()
	source := dgram.AddrOf(addr).Addr()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.strangers.Take(now, source, rateStranger) && d.anybody.Take(now, rateAnybody) {
		return false
	}
	d.retried++
	return true
}

// enterLean lets a lean connection in, which leaveLean ends.
func (d *door) enterLean() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open >= d.connections {
		d.refused++
		return false
	}
	d.open++
	return true
}

func (d *door) leaveLean() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.open--
}

// enter lets a connection in or refuses it, before its handshake; the context
// ends with the connection.
func (d *door) enter(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	full := d.open >= d.connections || d.quic >= max(d.connections/quicPart, leastQUIC) || d.shaking >= mostShaking
	if full || info.AddrVerified && !d.proven.Take(now, dgram.AddrOf(info.RemoteAddr).Addr(), rateProven) {
		d.refused++
		return nil, errDoor
	}
	d.open++
	d.quic++
	d.shaking++
	shaken := sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.shaking--
	})
	context.AfterFunc(ctx, func() {
		shaken()
		d.mu.Lock()
		defer d.mu.Unlock()
		d.open--
		d.quic--
	})
	return context.WithValue(ctx, shakenKey{}, shaken), nil
}

// shakenKey finds what is to be called when a connection's handshake has ended.
type shakenKey struct{}

// shaken notes that the handshake of a connection with this context has ended.
func shaken(ctx context.Context) {
	if f, ok := ctx.Value(shakenKey{}).(func()); ok {
		f()
	}
}
