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

// Defaults of Limits. A connection costs about 90 kB
// (resident memory with 1,000 idle agents, 2026-11).
const (
	defaultConnections   = 16384
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
	open             int
	refused, retried uint64
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

// enter lets a connection in or refuses it, before its handshake; the context
// ends with the connection.
func (d *door) enter(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open >= d.connections || info.AddrVerified && !d.proven.Take(now, dgram.AddrOf(info.RemoteAddr).Addr(), rateProven) {
		d.refused++
		return nil, errDoor
	}
	d.open++
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.open--
	})
	return ctx, nil
}
