package quicflow

import (
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// inboxBytes bounds what waits for QUIC to read it. QUIC's own queues are
// shorter, and it reads at once; this is for a moment without a processor.
const inboxBytes = 4 << 20

// inbox is bursts that wait to be read as datagrams. They are copied once a
// burst.
type inbox struct {
	malformed atomic.Uint64
	full      atomic.Uint64

	mu       sync.Mutex
	arrived  sync.Cond
	bursts   []arrival // from first on; the first is read from
	first    int
	bytes    int
	spare    [][]byte
	deadline dgram.Deadline
	closed   bool
}

// arrival is a burst, of which rest is still to be read.
type arrival struct {
	whole, rest []byte
	size        int
}

func (q *inbox) init() { q.arrived.L = &q.mu }

// put copies a burst in; a full queue loses it.
func (q *inbox) put(b dgram.Burst) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return
	case b.Size <= prefix || len(b.Buf) <= prefix:
		q.malformed.Add(uint64(b.Len()))
		return
	case q.bytes+len(b.Buf) > inboxBytes:
		q.full.Add(uint64(b.Len()))
		return
	}
	if q.first > 0 && len(q.bursts) == cap(q.bursts) {
		n := copy(q.bursts, q.bursts[q.first:])
		clear(q.bursts[n:])
		q.bursts, q.first = q.bursts[:n], 0
	}
	whole := append(q.blank(), b.Buf...)
	q.bytes += len(whole)
	q.bursts = append(q.bursts, arrival{whole, whole, b.Size})
	q.arrived.Signal()
}

// spares is how many buffers are kept for the next bursts.
const spares = 32

func (q *inbox) blank() []byte {
	n := len(q.spare)
	if n == 0 {
		return nil
	}
	b := q.spare[n-1]
	q.spare = q.spare[:n-1]
	return b
}

// wait returns when there is a datagram, or an error why there will be none.
// q.mu is held.
func (q *inbox) wait() error {
	for {
		switch {
		case q.closed:
			return net.ErrClosed
		case q.deadline.Passed():
			return os.ErrDeadlineExceeded
		case q.first < len(q.bursts):
			return nil
		}
		q.arrived.Wait()
	}
}

// pop copies the first datagram into b, without its prefix; ok is false where
// there is none. q.mu is held.
func (q *inbox) pop(b []byte) (n int, addr *net.UDPAddr, ok bool) {
	if q.first == len(q.bursts) {
		return 0, nil, false
	}
	a := &q.bursts[q.first]
	d := a.rest[:min(a.size, len(a.rest))]
	if addr = addrOf(path.Kinds(d[0])); len(d) == prefix {
		q.malformed.Add(1) // QUIC drops the empty packet
	}
	n = copy(b, d[prefix:])
	q.bytes -= len(d)
	if a.rest = a.rest[len(d):]; len(a.rest) > 0 {
		return n, addr, true
	}
	if len(q.spare) < spares {
		q.spare = append(q.spare, a.whole[:0])
	}
	*a = arrival{}
	if q.first++; q.first == len(q.bursts) {
		q.bursts, q.first = q.bursts[:0], 0
	}
	return n, addr, true
}

func (q *inbox) setDeadline(t time.Time) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return net.ErrClosed
	}
	q.deadline.Set(&q.arrived, t)
	return nil
}

func (q *inbox) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.bursts, q.first, q.spare, q.bytes = nil, 0, nil, 0
	q.deadline.Set(&q.arrived, time.Time{})
}
