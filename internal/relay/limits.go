package relay

import (
	"cmp"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// Limits bound what a relay gives. A zero field takes its default, so the zero
// Limits are the defaults.
type Limits struct {
	// Bytes and Datagrams a second, for each direction of a session.
	Bytes, Datagrams float64
	// Allocations that live at once, and those that name one member. A raw
	// flow takes one, so a dial with 200 clients takes 200.
	Allocations, PerMember int
	// Public allocations that live at once: those of public ports, of which
	// each client has one, and each spare.
	Public int
	// Idle ends an allocation that no leg has refreshed for so long.
	Idle time.Duration
	// Unbound ends an allocation of which no leg was ever bound.
	Unbound time.Duration
}

// Defaults. The rate is ten gigabits a second: it keeps one session from
// starving the others' look-ups, not from using the line.
const (
	defaultBytes       = 1.25e9
	defaultDatagrams   = 1e6
	defaultAllocations = 16384
	defaultPerMember   = 1024
	defaultPublic      = 65536
	defaultIdle        = 3 * time.Minute
	defaultUnbound     = 30 * time.Second
)

func (l Limits) withDefaults() Limits {
	return Limits{
		Bytes:       cmp.Or(l.Bytes, defaultBytes),
		Datagrams:   cmp.Or(l.Datagrams, defaultDatagrams),
		Allocations: cmp.Or(l.Allocations, defaultAllocations),
		PerMember:   cmp.Or(l.PerMember, defaultPerMember),
		Public:      cmp.Or(l.Public, defaultPublic),
		Idle:        cmp.Or(l.Idle, defaultIdle),
		Unbound:     cmp.Or(l.Unbound, defaultUnbound),
	}
}

// depth is how long a session may use its whole rate in one go. It must hold
// what a sender's line can deliver between two visits to the kernel.
const depth = 100 * time.Millisecond

// bucket is a token bucket for bytes and datagrams at once. One reader uses it
// nearly always, so its mutex is free.
type bucket struct {
	mu               sync.Mutex
	at               time.Time
	bytes, datagrams float64
}

// take says how many of n datagrams of size bytes may pass now, and takes them.
func (k *bucket) take(now time.Time, bytes, datagrams float64, n, size int) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	elapsed := now.Sub(k.at).Seconds()
	if k.at.IsZero() {
		elapsed = depth.Seconds()
	}
	if elapsed > 0 {
		k.at = now
		// A whole burst must fit, or one would never pass at a low rate.
		k.bytes = min(k.bytes+elapsed*bytes, max(depth.Seconds()*bytes, dgram.MaxBytes))
		k.datagrams = min(k.datagrams+elapsed*datagrams, max(depth.Seconds()*datagrams, dgram.MaxSegments))
	}
	n = min(n, int(k.datagrams))
	if size > 0 {
		n = min(n, int(k.bytes)/size)
	}
	k.datagrams -= float64(n)
	k.bytes -= float64(n * size)
	return n
}
