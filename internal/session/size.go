package session

import (
	"time"

	"rendezvous/proto"
)

// Sizes of UDP payloads that real paths carry, in bytes, for IPv4; IPv6
// headers take 20 more. 1472: Ethernet. 1464: PPPoE. 1452: what a WireGuard of
// MTU 1420 needs in a raw flow. 1432, 1412: one more tunnel. 1372: MTU 1400 of
// mobile carriers. 1252: MTU 1280, the least of IPv6. 1200: QUIC's base.
var sizes = []int{1472, 1464, 1452, 1432, 1412, 1392, 1372, 1332, 1252}

const (
	leastSize   = 1200
	ipv6Extra   = 20
	sizeRounds  = 3
	sizeWait    = 300 * time.Millisecond
	verifyEvery = 2 * time.Second
	verifyMost  = 5
	searchAgain = 10 * time.Minute
	searchSoon  = 30 * time.Second // after the size shrank, doubled each time: it may have been loss
)

// sizeSearch finds the largest datagram that crosses a path, by probes as
// large as payload and never by ICMP, and notices when it shrinks.
type sizeSearch struct {
	mtu      int       // the largest that was answered
	extra    int       // what the headers take beyond those of UDP and IPv4
	due      time.Time // of the next round or verification; zero before the path is used
	rounds   int
	verified time.Time
	misses   int           // verifications since the last answer to one
	lower    int           // the largest smaller size that was answered meanwhile
	again    time.Duration // until the next search for a larger size
}

func newSizeSearch(extra int) sizeSearch {
	return sizeSearch{mtu: leastSize, extra: extra, again: searchAgain}
}

// weigh takes in what a datagram costs now on the path beyond UDP over IPv4.
func (z *sizeSearch) weigh(extra int, now time.Time) {
	if extra == z.extra {
		return
	}
	z.extra = extra
	z.mtu = min(z.mtu, z.top())
	if !z.due.IsZero() {
		z.begin(now)
	}
}

func (z *sizeSearch) begin(now time.Time) {
	z.due, z.rounds = now, 0
}

func (z *sizeSearch) top() int { return sizes[0] - z.extra }

// next is the sizes to probe now, if any.
func (z *sizeSearch) next(now time.Time, rtt time.Duration, active bool) []int {
	if z.due.IsZero() || now.Before(z.due) {
		return nil
	}
	if z.rounds < sizeRounds && z.mtu < z.top() {
		z.rounds++
		z.due = now.Add(max(sizeWait, 3*rtt))
		var out []int
		for _, size := range sizes {
			if size-z.extra > z.mtu {
				out = append(out, size-z.extra)
			}
		}
		return out
	}
	if z.rounds < sizeRounds {
		z.rounds = sizeRounds
	}
	return z.verify(now, max(sizeWait, 3*rtt), active)
}

// busy says whether sizes are being looked for, or an answer to one is missing.
func (z *sizeSearch) busy() bool { return z.rounds < sizeRounds && z.mtu < z.top() || z.misses > 0 }

// explore is next for a spare: its size is found once, so that data need not
// begin small when it has to move there.
func (z *sizeSearch) explore(now time.Time, rtt time.Duration) []int {
	if z.due.IsZero() {
		z.begin(now)
	}
	if z.rounds == sizeRounds || z.mtu >= z.top() {
		return nil
	}
	return z.next(now, rtt, false)
}

// verify asks now and then whether the largest size still crosses: a path may
// pass small probes and drop data. Once an answer is missing, the smaller
// sizes are asked for as well, and the largest of them is what is left. While
// idle there is nothing to protect.
func (z *sizeSearch) verify(now time.Time, wait time.Duration, active bool) []int {
	if z.verified.IsZero() {
		z.verified = now
	}
	if z.mtu < z.top() && now.Sub(z.verified) > z.again {
		z.verified, z.again = now, min(2*z.again, searchAgain)
		z.begin(now)
		return nil
	}
	z.due = now.Add(verifyEvery)
	switch {
	case !active || z.mtu <= leastSize:
		z.misses, z.lower = 0, 0
		return nil
	case z.misses == verifyMost:
		z.mtu = max(z.lower, leastSize)
		z.misses, z.lower = 0, 0
		z.verified, z.again = now, searchSoon
		return nil
	}
	z.due = now.Add(wait)
	if z.misses++; z.misses == 1 {
		return []int{z.mtu}
	}
	var out []int
	for _, size := range sizes {
		if size-z.extra <= z.mtu {
			out = append(out, size-z.extra)
		}
	}
	return out
}

// answered notes that a probe of that size crossed; it reports a change.
func (z *sizeSearch) answered(size int, now time.Time) bool {
	switch {
	case z.misses == 0:
	case size >= z.mtu:
		z.misses, z.lower = 0, 0
		z.due = now.Add(verifyEvery)
	default:
		z.lower = max(z.lower, size)
	}
	if size <= z.mtu || size > z.top() {
		return false
	}
	z.mtu, z.misses = size, 0
	return true
}

// refused notes that datagrams of that size do not cross (any more).
func (z *sizeSearch) refused(size int) {
	z.misses = 0
	for _, s := range sizes {
		if s-z.extra < size {
			z.mtu = min(z.mtu, s-z.extra)
			return
		}
	}
	z.mtu = leastSize
}

// service is the largest payload of a sealed datagram on a path of this size.
func service(mtu int, raw bool) int {
	if raw {
		return mtu
	}
	return mtu - proto.Overhead
}
