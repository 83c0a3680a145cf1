package rendezvous

import (
	"context"
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/relay"
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
	if l.Connections <= 0 {
		l.Connections = defaultConnections
	}
	if l.ConnectionsPerSource <= 0 {
		l.ConnectionsPerSource = defaultPerSource
	}
	if l.Introductions <= 0 {
		l.Introductions = defaultIntroductions
	}
	return l
}

// rate is what a token bucket gives: a token every so often, and so many that
// were saved up.
type rate struct {
	every time.Duration
	burst int
}

// The rates. A raw flow takes an introduction, so a dial with 200 clients
// takes 200 at once.
var (
	rateRequests = rate{100 * time.Millisecond, 600}  // of an agent, of any kind
	rateFlood    = rate{10 * time.Millisecond, 6000}  // of an agent: beyond, it is cut off
	rateAsks     = rate{200 * time.Millisecond, 400}  // introductions by an agent
	rateOffers   = rate{100 * time.Millisecond, 1000} // introductions to an agent
	rateStranger = rate{500 * time.Millisecond, 16}   // connections from a source whose address is not proven
	rateAnybody  = rate{5 * time.Millisecond, 400}    // such connections from all sources
	rateProven   = rate{50 * time.Millisecond, 256}   // connections from a source with a proven address; a carrier's NAT may hide many agents
)

// meter is a token bucket as the time when it will be full again (the generic
// cell rate algorithm). The zero meter is full.
type meter struct{ full time.Time }

func (m *meter) take(now time.Time, r rate) bool {
	behind := m.full.Sub(now)
	if behind < 0 || behind > time.Duration(r.burst)*r.every { // more than empty: the clock was set back
		behind = 0
	}
	if behind > time.Duration(r.burst-1)*r.every {
		return false
	}
	m.full = now.Add(behind + r.every)
	return true
}

// meters are token buckets of sources in a table of fixed size that a keyed
// hash spreads them over: a flood of forged sources can neither make it grow
// nor push another's bucket out.
type meters struct {
	seed  maphash.Seed
	table [4096]meter
}

func (m *meters) take(now time.Time, source netip.Addr, r rate) bool {
	prefix := sourceOf(source)
	if !prefix.IsValid() {
		return false
	}
	return m.table[maphash.Comparable(m.seed, prefix)%uint64(len(m.table))].take(now, r)
}

// door decides who may open a control connection.
type door struct {
	connections int // allowed at once

	mu               sync.Mutex
	strangers        meters
	proven           meters
	anybody          meter
	open             int
	refused, retried uint64
}

func newDoor(connections int) *door {
	return &door{
		connections: connections,
		strangers:   meters{seed: maphash.MakeSeed()},
		proven:      meters{seed: maphash.MakeSeed()},
	}
}

var errDoor = errors.New("too many control connections; try again later")

// unproven says whether a source must first prove its address with a Retry
// (RFC 9000 section 8.1.2), which costs it a round trip: so forged addresses
// use up nobody's share.
func (d *door) unproven(addr net.Addr) bool {
	now := time.Now()
	source := addrOf(addr).Addr()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.strangers.take(now, source, rateStranger) && d.anybody.take(now, rateAnybody) {
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
	if d.open >= d.connections || info.AddrVerified && !d.proven.take(now, addrOf(info.RemoteAddr).Addr(), rateProven) {
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

// addrOf is a net.Addr of UDP or TCP as a value, the zero one when it is no such.
func addrOf(a net.Addr) netip.AddrPort {
	with, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	p := with.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}
