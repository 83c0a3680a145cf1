package sources

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// Rate is what a token bucket gives: a token every so often, and so many that
// were saved up.
type Rate struct {
	Every time.Duration
	Burst int
}

// Bucket is a token bucket as the time when it will be full again (the generic
// cell rate algorithm), in nanoseconds of Unix time. The zero Bucket is full.
type Bucket struct{ full int64 }

// Take takes a token, if there is one.
func (b *Bucket) Take(now time.Time, r Rate) bool {
	at := now.UnixNano()
	behind := time.Duration(b.full - at)
	if behind < 0 || behind > time.Duration(r.Burst)*r.Every { // more than empty: the clock was set back
		behind = 0
	}
	if behind > time.Duration(r.Burst-1)*r.Every {
		return false
	}
	b.full = at + int64(behind+r.Every)
	return true
}

// Buckets are those of all sources, in a table of fixed size (64 KiB) that a
// keyed hash spreads them over: a flood of forged sources can neither make it
// grow nor push another's bucket out. Those who share a bucket share its tokens.
// Its method may be called from many goroutines.
type Buckets struct {
	seed maphash.Seed

	mu    sync.Mutex
	table [8192]Bucket
}

// NewBuckets are all full.
func NewBuckets() *Buckets { return &Buckets{seed: maphash.MakeSeed()} }

// Take takes a token of a source's bucket, if there is one, and none of no
// address.
func (b *Buckets) Take(now time.Time, from netip.Addr, r Rate) bool {
	source := Of(from)
	if !source.IsValid() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.table[maphash.Comparable(b.seed, source)%uint64(len(b.table))].Take(now, r)
}
