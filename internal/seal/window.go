package seal

import "rendezvous/proto"

// WindowSize is how many counters back a datagram may come late. At a million
// datagrams a second it is 16 ms.
const WindowSize = 16384

const (
	blockBits = 64
	blocks    = 2 * WindowSize / blockBits // the next power of two over WindowSize/blockBits + 1
)

// Window is a replay window by RFC 6479: a ring of blocks of bits, of which
// moving on clears whole ones. The zero Window has seen nothing. The caller
// locks it.
type Window struct {
	next uint64 // the highest counter seen, and one
	ring [blocks]uint64
}

// Fresh says whether Accept would take c: look before opening, at no cost.
func (w *Window) Fresh(c uint64) bool { return fresh(w.ring[:], w.next, c) }

// Accept takes c, once a datagram with it has opened; false if it was seen
// before or is too old.
func (w *Window) Accept(c uint64) bool { return accept(w.ring[:], &w.next, c) }

// Expected is the counter after the highest one seen.
func (w *Window) Expected() uint64 { return w.next }

// Jump moves on so that next is expected, where the peer says so in a probe
// that opened: after a blackout the counter's low bits alone lead astray. It
// never moves back, and what was not seen behind it stays fresh.
func (w *Window) Jump(next uint64) { jump(w.ring[:], &w.next, next) }

// A ring holds a power of two of blocks; its window is half of its bits.

func fresh(ring []uint64, next, c uint64) bool {
	switch {
	case c >= proto.MaxCounter:
		return false
	case c >= next:
		return true
	case next-c > uint64(len(ring))*blockBits/2:
		return false
	}
	return ring[c/blockBits&uint64(len(ring)-1)]&(1<<(c%blockBits)) == 0
}

func accept(ring []uint64, next *uint64, c uint64) bool {
	if !fresh(ring, *next, c) {
		return false
	}
	jump(ring, next, c+1)
	ring[c/blockBits&uint64(len(ring)-1)] |= 1 << (c % blockBits)
	return true
}

func jump(ring []uint64, expected *uint64, next uint64) {
	if next <= *expected || next > proto.MaxCounter {
		return
	}
	var from uint64 // the block of the highest counter so far, which stays
	if *expected > 0 {
		from = (*expected - 1) / blockBits
	}
	to := (next - 1) / blockBits
	for b := max(from+1, to-min(to, uint64(len(ring)-1))); b <= to; b++ {
		ring[b&uint64(len(ring)-1)] = 0
	}
	*expected = next
}
