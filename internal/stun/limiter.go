package stun

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// What a source may be sent that is larger than what it asked with. A bare
// request of 20 bytes is answered with at most 64, or 100 over IPv6: at this
// pace a forged source is sent under 1 kB/s.
const (
	limitPace  = 100 * time.Millisecond
	limitBurst = 40
)

// limitBuckets bounds the limiter's memory: 64 KiB.
const limitBuckets = 8192

// limiter is a token bucket for each source address, in a table of fixed size
// that sources are spread over by a keyed hash: a flood of forged sources can
// neither make it grow nor push a victim's bucket out. Those who share a
// bucket share its tokens.
//
// A bucket is the time at which it will be full again (the generic cell rate
// algorithm).
type limiter struct {
	seed maphash.Seed
	full *[limitBuckets]int64 // Unix time, in nanoseconds
}

func newLimiter() limiter {
	return limiter{seed: maphash.MakeSeed(), full: new([limitBuckets]int64)}
}

// allow takes a token of the source's bucket, if there is one. A source is an
// IPv4 address, or the /64 of an IPv6 address, which one host may fill.
func (l *limiter) allow(now time.Time, source netip.Addr) bool {
	bits := 32
	if source.Is6() {
		bits = 64
	}
	prefix, err := source.Prefix(bits)
	if err != nil || !source.IsValid() {
		return false
	}
	full := &l.full[maphash.Comparable(l.seed, prefix)%limitBuckets]
	at := now.UnixNano()
	behind := time.Duration(*full - at)
	if behind < 0 || behind > limitBurst*limitPace { // more than empty: the clock was set back
		behind = 0
	}
	if behind > (limitBurst-1)*limitPace {
		return false
	}
	*full = at + int64(behind+limitPace)
	return true
}
