package dgram

import "net/netip"

// inboxSize is how many datagrams wait for a QUIC connection: those of a round
// trip of 40 ms at 100 Mbit/s, more than a control connection ever sends.
const inboxSize = 512

// inbox is a bounded queue of copied datagrams, the oldest first. It uses the
// same few pieces of memory again, so that it holds no more of them than once
// waited at a time.
type inbox struct {
	ring  []letter // grows up to inboxSize
	first int
	n     int
	spare [][]byte
}

type letter struct {
	from netip.AddrPort
	body []byte
}

// push appends a copy; false when the oldest had to go for it.
func (q *inbox) push(from netip.AddrPort, d []byte) bool {
	kept := true
	switch {
	case q.n == inboxSize:
		q.drop()
		kept = false
	case q.n == len(q.ring):
		q.grow()
	}
	q.ring[(q.first+q.n)%len(q.ring)] = letter{from, append(q.blank(), d...)}
	q.n++
	return kept
}

// pop copies the oldest into b and forgets it.
func (q *inbox) pop(b []byte) (int, netip.AddrPort, bool) {
	if q.n == 0 {
		return 0, netip.AddrPort{}, false
	}
	oldest := q.ring[q.first]
	n := copy(b, oldest.body)
	q.drop()
	return n, oldest.from, true
}

// spareSize is the largest memory worth keeping: a datagram of a path with an
// MTU of 1500.
const spareSize = 2048

func (q *inbox) drop() {
	if body := q.ring[q.first].body; cap(body) <= spareSize {
		q.spare = append(q.spare, body[:0])
	}
	q.ring[q.first] = letter{}
	q.first = (q.first + 1) % len(q.ring)
	q.n--
}

func (q *inbox) blank() []byte {
	last := len(q.spare) - 1
	if last < 0 {
		return nil
	}
	body := q.spare[last]
	q.spare = q.spare[:last]
	return body
}

func (q *inbox) grow() {
	ring := make([]letter, min(max(8, 2*len(q.ring)), inboxSize))
	n := copy(ring, q.ring[q.first:])
	copy(ring[n:], q.ring[:q.first])
	q.ring, q.first = ring, 0
}
