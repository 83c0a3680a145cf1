package agent

import (
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// held is a burst or a frame that waits for a path.
type held struct {
	at    time.Time
	only  path.Kinds // that it may take; empty: all
	flow  uint16
	burst dgram.Burst
	frame *proto.Frame
}

// Bounds of what waits while a path is being made: the first datagrams of some
// hundred clients must not be lost, and a flood before the path must not fill
// memory. The oldest makes room.
const (
	maxHeld     = 1024
	maxHeldSize = 512 << 10
	heldFor     = 10 * time.Second
)

// queue is what waits for a path, in order.
type queue struct {
	mu      sync.Mutex
	list    []held
	bytes   int
	dropped uint64 // datagrams that waited too long or made room
}

// put appends h; the oldest makes room.
func (q *queue) put(now time.Time, h held) {
	h.at = now
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forget(func(first held) bool {
		return len(q.list) >= maxHeld || q.bytes+len(h.burst.Buf) > maxHeldSize || now.Sub(first.at) > heldFor
	})
	q.list = append(q.list, h)
	q.bytes += len(h.burst.Buf)
}

// putBack gives back, in front, what was taken and could not be sent.
func (q *queue) putBack(list []held) {
	if len(list) == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, h := range list {
		q.bytes += len(h.burst.Buf)
	}
	q.list = append(list, q.list...)
	q.forget(func(held) bool { return len(q.list) > maxHeld || q.bytes > maxHeldSize })
}

// take empties the queue of all that is not too old.
func (q *queue) take(now time.Time) []held {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forget(func(first held) bool { return now.Sub(first.at) > heldFor })
	list := q.list
	q.list, q.bytes = nil, 0
	return list
}

// expire forgets what has waited too long.
func (q *queue) expire(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.forget(func(first held) bool { return now.Sub(first.at) > heldFor })
}

// waits says whether anything is held that is not too old.
func (q *queue) waits(now time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	n := len(q.list)
	return n > 0 && now.Sub(q.list[n-1].at) < heldFor
}

// lost is how many datagrams were dropped here.
func (q *queue) lost() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// forget drops what was held longest, as long as why says so. q.mu is held.
func (q *queue) forget(why func(first held) bool) {
	for len(q.list) > 0 && why(q.list[0]) {
		if q.list[0].frame == nil {
			q.dropped += uint64(q.list[0].burst.Len())
		}
		q.bytes -= len(q.list[0].burst.Buf)
		q.list = q.list[1:]
	}
	if len(q.list) == 0 {
		q.list = nil
	}
}
