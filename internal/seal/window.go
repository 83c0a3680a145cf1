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
func (w *Window) Fresh(c uint64) bool {
	switch {
	case c >= proto.MaxCounter:
		return false
	case c >= w.next:
		return true
	case w.next-c > WindowSize:
		return false
	}
	return w.ring[c/blockBits%blocks]&(1<<(c%blockBits)) == 0
}

// Accept takes c, once a datagram with it has opened; false if it was seen
// before or is too old.
func (w *Window) Accept(c uint64) bool {
	if !w.Fresh(c) {
		return false
	}
	w.Jump(c + 1)
	w.ring[c/blockBits%blocks] |= 1 << (c % blockBits)
	return true
}

// Expected is the counter after the highest one seen.
func (w *Window) Expected() uint64 { return w.next }

// Jump moves on so that next is expected, where the peer says so in a probe
// that opened: after a blackout the counter's low bits alone lead astray. It
// never moves back, and what was not seen behind it stays fresh.
func (w *Window) Jump(next uint64) {
	if next <= w.next || next > proto.MaxCounter {
		return
	}
	var from uint64 // the block of the highest counter so far, which stays
	if w.next > 0 {
		from = (w.next - 1) / blockBits
	}
	to := (next - 1) / blockBits
	for b := max(from+1, to-min(to, blocks-1)); b <= to; b++ {
		w.ring[b%blocks] = 0
	}
	w.next = next
}
