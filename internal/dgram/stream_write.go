package dgram

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// How old a datagram may grow while another waits behind it. A burst is let
// through: within mostAge, TCP in a session has not taken a datagram for lost
// yet. Where something has waited for longer than that without a break, more is
// offered than the stream takes, and a queue would only make all of it old:
// then standingAge is the limit.
const (
	mostAge     = 100 * time.Millisecond
	standingAge = 20 * time.Millisecond
)

// sameAge is how far apart datagrams may be written and still share a piece of
// memory, whose age is that of its first.
const sameAge = 5 * time.Millisecond

// One write's size. A datagram can't be taken back once a write holds it, so a
// write should last a few milliseconds at most, whatever the speed: one that
// takes long makes the next smaller, a quick one makes it larger. The kernel's
// backlog of what isn't sent follows it.
const (
	leastPiece = 4 << 10
	firstPiece = 16 << 10
	slowWrite  = 4 * time.Millisecond
	quickWrite = time.Millisecond
)

// outlet is the writing half of a Stream: a queue of framed datagrams.
type outlet struct {
	raw     syscall.RawConn // nil unless the kernel's
	limit   int
	dropped atomic.Uint64
	unfit   atomic.Uint64

	mu      sync.Mutex
	queue   []chunk       // the oldest first
	bytes   int           // that wait
	kept    int           // of them, bytes that must not be dropped
	free    chan struct{} // closed when none of those wait any more; nil when nobody wants to know
	piece   int           // size of one write
	writing []byte        // a write reads this chunk's memory
	orphan  bool          // which left the queue meanwhile
	running bool
	since   time.Time // running
	closed  bool
}

// chunk is framed datagrams that were written at about the same time.
type chunk struct {
	buf  []byte // lent
	done int    // the datagrams before are written or dropped
	keep bool   // none of its datagrams may be dropped
	at   time.Time
}

// push queues a copy of b's datagrams. start is true when the caller must see
// to their being written.
func (o *outlet) push(b Burst, keep bool) (start, open bool) {
	need := len(b.Buf) + frameHeader*b.Len()
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false, false
	}
	if need <= mostPiece {
		o.add(b, need, now, keep)
	} else { // no socket would take it as one either
		for d := range b.All() {
			o.add(One(b.Addr, d), frameHeader+len(d), now, keep)
		}
	}
	if start = !o.running; start {
		o.running, o.since = true, now
	}
	o.shorten(now)
	return start, true
}

func (o *outlet) add(b Burst, need int, now time.Time, keep bool) {
	last := len(o.queue) - 1
	if last < 0 || o.queue[last].keep != keep || cap(o.queue[last].buf)-len(o.queue[last].buf) < need || now.Sub(o.queue[last].at) > sameAge {
		o.queue = append(o.queue, chunk{buf: lend(need), at: now, keep: keep})
		last++
	}
	c := &o.queue[last]
	for d := range b.All() {
		c.buf = putFrame(c.buf, d)
	}
	o.bytes += need
	if keep {
		o.kept += need
	}
}

// shorten drops the oldest datagrams that are too many or too old, but never
// the newest one.
func (o *outlet) shorten(now time.Time) {
	oldest := mostAge
	if now.Sub(o.since) > mostAge {
		oldest = standingAge
	}
	for len(o.queue) > 0 {
		c := &o.queue[0]
		n, ok := frameLen(c.buf[c.done:])
		switch {
		case !ok:
			o.shift()
			continue
		case c.keep: // nor what is behind it, which leaves no later for that
			return
		case o.bytes == frameHeader+n:
			return // the only one
		case o.bytes <= o.limit && now.Sub(c.at) <= oldest:
			return
		}
		c.done += frameHeader + n
		o.bytes -= frameHeader + n
		o.dropped.Add(1)
	}
}

// shift forgets the oldest chunk.
func (o *outlet) shift() {
	if buf := o.queue[0].buf; o.writing != nil && &buf[:1][0] == &o.writing[:1][0] {
		o.orphan = true
	} else {
		giveBack(buf)
	}
	last := copy(o.queue, o.queue[1:])
	o.queue[last] = chunk{}
	o.queue = o.queue[:last]
}

// next takes what the next write is to bring: whole datagrams, whose memory
// stays until wrote. Nil when nothing waits; then the writer must end.
func (o *outlet) next() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.shorten(time.Now())
	for len(o.queue) > 0 && (o.closed || o.queue[0].done == len(o.queue[0].buf)) {
		o.shift()
	}
	if len(o.queue) == 0 {
		o.running = false
		return nil
	}
	c := &o.queue[0]
	begin := c.done
	for c.done < len(c.buf) {
		n, _ := frameLen(c.buf[c.done:])
		if c.done > begin && c.done+frameHeader+n-begin > o.piece {
			break
		}
		c.done += frameHeader + n
	}
	piece := c.buf[begin:c.done]
	o.bytes -= len(piece)
	if c.keep {
		o.keepLess(len(piece))
	}
	o.writing = c.buf
	if c.done == len(c.buf) {
		o.shift() // nothing more is put into it
	}
	return piece
}

// wrote ends a write of n bytes that next gave.
func (o *outlet) wrote(n int, took time.Duration) {
	o.mu.Lock()
	if o.orphan {
		giveBack(o.writing)
	}
	o.writing, o.orphan = nil, false
	before := o.piece
	switch {
	case took > slowWrite:
		o.piece = max(o.piece/2, leastPiece)
	case took < quickWrite && n >= o.piece/2:
		o.piece = min(2*o.piece, mostPiece)
	}
	after := o.piece
	o.mu.Unlock()
	if before != after && o.raw != nil {
		backlog(o.raw, after)
	}
}

// close empties the queue, for good.
func (o *outlet) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.bytes = 0
	o.keepLess(o.kept)
	for len(o.queue) > 0 {
		o.shift()
	}
}

// keepLess notes that n bytes that must not be dropped have left the queue.
func (o *outlet) keepLess(n int) {
	o.kept -= n
	if o.kept == 0 && o.free != nil {
		close(o.free)
		o.free = nil
	}
}

// AwaitKept waits until all that WriteKept was given has left the queue, the
// stream has ended or stop is closed, which are errors. It returns how many bytes
// WriteKept should get, for the datagrams of others not to wait long.
func (s *Stream) AwaitKept(stop <-chan struct{}) (int, error) {
	o := &s.out
	o.mu.Lock()
	for o.kept > 0 && !o.closed {
		if o.free == nil {
			o.free = make(chan struct{})
		}
		free := o.free
		o.mu.Unlock()
		select {
		case <-free:
		case <-stop:
			return 0, net.ErrClosed
		}
		o.mu.Lock()
	}
	defer o.mu.Unlock()
	if o.closed {
		return 0, net.ErrClosed
	}
	return o.piece, nil
}

// WriteKept is Write for datagrams that must not be dropped, however long they
// wait: they arrive in their order, unless the stream ends. Who does not call
// AwaitKept first may fill the memory.
func (s *Stream) WriteKept(b Burst) error { return s.write(b, true) }
