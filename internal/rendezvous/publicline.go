package rendezvous

import (
	"bytes"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// What is kept of new clients until a leg is there for them: an agent answers
// within a round trip, and what is older was sent again by whoever still wants
// it.
const (
	lineMost      = 1024            // clients of a port
	lineWait      = 2 * time.Second // from a client's first datagram
	lineDatagrams = 8               // of a client
	lineBytes     = 16 << 10        // of a client, but for its first burst
	lineTotal     = 4 << 20         // bytes of a port
)

// waitingLine is the new clients of a port that have no leg yet, and what they
// sent. Its owner locks it.
type waitingLine struct {
	byAddr map[waiterKey]*waiter
	order  []*waiter // the oldest first
	bytes  int
}

type waiterKey struct {
	door *publicDoor
	addr netip.AddrPort
}

type waiter struct {
	waiterKey
	since     time.Time
	held      []dgram.Burst
	datagrams int
	bytes     int
}

func newWaitingLine() waitingLine { return waitingLine{byAddr: map[waiterKey]*waiter{}} }

// len is how many wait for a leg.
func (l *waitingLine) len() int { return len(l.order) }

func (l *waitingLine) find(door *publicDoor, addr netip.AddrPort) *waiter {
	if len(l.byAddr) == 0 {
		return nil
	}
	return l.byAddr[waiterKey{door, addr}]
}

// join lets a client wait, with its first burst; false where too many do.
func (l *waitingLine) join(now time.Time, door *publicDoor, b dgram.Burst) bool {
	if len(l.order) >= lineMost || l.bytes+len(b.Buf) > lineTotal {
		return false
	}
	w := &waiter{waiterKey: waiterKey{door, b.Addr}, since: now}
	l.byAddr[w.waiterKey] = w
	l.order = append(l.order, w)
	l.keep(w, b)
	return true
}

// hold keeps what more a waiting client sends, and says how many datagrams
// there was no room for.
func (l *waitingLine) hold(w *waiter, b dgram.Burst) int {
	n := b.Len()
	if w.datagrams+n > lineDatagrams || w.bytes+len(b.Buf) > lineBytes || l.bytes+len(b.Buf) > lineTotal {
		return n
	}
	l.keep(w, b)
	return 0
}

func (l *waitingLine) keep(w *waiter, b dgram.Burst) {
	b.Buf = bytes.Clone(b.Buf)
	w.held = append(w.held, b)
	w.datagrams += b.Len()
	w.bytes += len(b.Buf)
	l.bytes += len(b.Buf)
}

// first takes who waits for the longest out of the line, but goes on keeping
// what it sends until leave; nil when nobody waits.
func (l *waitingLine) first() *waiter {
	if len(l.order) == 0 {
		return nil
	}
	w := l.order[0]
	l.order[0] = nil
	l.order = l.order[1:]
	return w
}

// back puts the one whom first gave to the head of the line again.
func (l *waitingLine) back(w *waiter) { l.order = append([]*waiter{w}, l.order...) }

// take gives what the client has sent so far.
func (l *waitingLine) take(w *waiter) []dgram.Burst {
	held := w.held
	l.bytes -= w.bytes
	w.held, w.datagrams, w.bytes = nil, 0, 0
	return held
}

// leave forgets the one whom first gave.
func (l *waitingLine) leave(w *waiter) {
	delete(l.byAddr, w.waiterKey)
	l.bytes -= w.bytes
}

// expire takes those off that have waited too long, or all, and says how many
// datagrams they had sent.
func (l *waitingLine) expire(now time.Time, all bool) (datagrams int) {
	for len(l.order) > 0 && (all || now.Sub(l.order[0].since) >= lineWait) {
		w := l.first()
		datagrams += w.datagrams
		l.leave(w)
	}
	return datagrams
}
