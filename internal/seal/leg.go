package seal

import (
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

// Leg seals what crosses between an agent and its coordinator on the leg of a
// public port that is not raw, and opens what comes: one for each client, on
// either side. It may be used from many goroutines at once, and holds about
// 1 KB, since a coordinator has thousands.
type Leg struct {
	out     *Sealer
	in      *Opener
	counter atomic.Uint64
	parts   atomic.Uint32 // the id of the next datagram that we split
	join    atomic.Pointer[proto.Joiner]
	drops   atomic.Uint64

	mu     sync.Mutex // guards what follows
	next   uint64     // the highest counter seen, and one
	ring   [legBlocks]uint64
	search uint64 // how many wraps of the low bits beyond the expected one were tried
}

const (
	// legBlocks make a window of 2048 counters: 40 ms at 50,000 datagrams a
	// second, which is all of a port's in one client.
	legBlocks = 2 * 2048 / blockBits
	// legRoom is the size of the largest datagram that is sent whole, in bytes
	// with its seal. No probe measures a leg, so that it is what crosses IPv6,
	// PPPoE and one tunnel more on paths of 1500.
	legRoom = 1400
	// legTries is how many wraps of the counter's low bits one datagram that
	// does not open is tried with: after a blackout some datagrams find the
	// right one, and garbage costs no more than that.
	legTries = 4
	legWrap  = 1 << 14 // counters between two with the same low bits
)

// Flows of a leg: parts go in flow 0, as in sessions.
const legFlow = 1

// NewLeg makes the agent's side of a leg, or the coordinator's, from the leg's
// key (Allocation.key). Each side makes one for the leg's whole life: another
// would use its counters again.
func NewLeg(key [KeySize]byte, coordinator bool) *Leg {
	out := deriveKey(key[:], nil, labelLegAgent)
	in := deriveKey(key[:], nil, labelLegCoordinator)
	if coordinator {
		out, in = in, out
	}
	return &Leg{out: NewSealer(out, ChaCha20Poly1305), in: NewOpener(in, ChaCha20Poly1305)}
}

// Dropped is how many datagrams did not open, came twice, or were of no form.
func (l *Leg) Dropped() uint64 { return l.drops.Load() }

// Split is how many datagrams were sealed in parts.
func (l *Leg) Split() uint64 { return uint64(l.parts.Load()) }

// Incomplete is how many datagrams of the other side were given up because a
// part of them was lost.
func (l *Leg) Incomplete(now time.Time) uint64 {
	if j := l.join.Load(); j != nil {
		return j.Lost(now)
	}
	return 0
}

// legBuffer holds a burst sealed or opened, and a part that is about to be
// sealed.
type legBuffer struct {
	burst [dgram.MaxBytes + dgram.MaxSegments*proto.Overhead]byte
	part  [legRoom]byte
}

var legBuffers = sync.Pool{New: func() any { return new(legBuffer) }}

// Seal seals the burst's datagrams and gives them to write, in as few bursts as
// fit the kernel's bounds; those that are too large for the leg in parts. What
// write gets is valid until it returns. It gives write's first error.
func (l *Leg) Seal(b dgram.Burst, write func(dgram.Burst) error) error {
	buffer := legBuffers.Get().(*legBuffer)
	defer legBuffers.Put(buffer)
	if b.Len() == 1 {
		b.Size = len(b.Buf)
	}
	if b.Size+proto.Overhead <= legRoom {
		return l.sealRun(buffer.burst[:0], legFlow, b, write)
	}
	whole := len(b.Buf) / b.Size * b.Size
	rest := dgram.One(b.Addr, b.Buf[whole:]) // the last, if it is shorter
	b.Buf = b.Buf[:whole]
	err := l.sealParts(buffer, b, write)
	if len(rest.Buf) > 0 {
		if e := l.Seal(rest, write); err == nil {
			err = e
		}
	}
	return err
}

// sealRun seals datagrams that fit.
func (l *Leg) sealRun(buffer []byte, flow uint16, b dgram.Burst, write func(dgram.Burst) error) error {
	n := uint64(b.Len())
	counter := l.counter.Add(n) - n
	r := run{Burst: dgram.Burst{Addr: b.Addr, Buf: buffer, Size: b.Size + proto.Overhead}, write: write}
	for d := range b.All() {
		if len(r.Buf)+len(d)+proto.Overhead > dgram.MaxBytes {
			r.flush()
		}
		r.Buf = l.out.Seal(r.Buf, 0, flow, counter, d)
		r.count++
		counter++
	}
	r.flush()
	return r.err
}

// Open opens the burst's datagrams and gives them to write in bursts, in their
// order. What write gets is valid until it returns. What does not open, or came
// before, is dropped and counted. It gives write's first error.
func (l *Leg) Open(now time.Time, b dgram.Burst, write func(dgram.Burst) error) error {
	buffer := legBuffers.Get().(*legBuffer)
	defer legBuffers.Put(buffer)
	r := run{Burst: dgram.Burst{Addr: b.Addr, Buf: buffer.burst[:0]}, write: write}
	j := joining{leg: l, now: now, out: &r}
	for d := range b.All() {
		opened, flow, ok := l.open(r.Buf[:len(r.Buf)+j.size], d)
		if !ok {
			l.drops.Add(1)
			continue
		}
		start := len(r.Buf) + j.size
		r.Buf = opened[:len(r.Buf)] // it may have been moved
		if flow == proto.ControlFlow {
			j.take(opened, start)
			continue
		}
		j.spill()
		r.join(opened[start:])
	}
	j.spill()
	r.flush()
	return r.err
}

// run is datagrams that leave together.
type run struct {
	dgram.Burst
	count int
	write func(dgram.Burst) error
	err   error // the first
}

// add takes the datagram at start of opened, which begins with Buf. All but the
// last of a burst are of one size, and none but a lone one is empty.
func (r *run) add(opened []byte, start int) {
	n := len(opened) - start
	if r.count > 0 && (n > r.Size || n == 0) {
		first := r.Buf[:0]
		r.flush()
		opened = append(first, opened[start:]...)
	}
	if r.count == 0 {
		r.Size = n
	}
	r.Buf = opened
	if r.count++; n < r.Size || n == 0 {
		r.flush()
	}
}

// join takes a datagram that lies elsewhere, or somewhere behind Buf.
func (r *run) join(whole []byte) {
	if len(r.Buf)+len(whole) > dgram.MaxBytes {
		r.flush()
	}
	r.add(append(r.Buf, whole...), len(r.Buf))
}

func (r *run) flush() {
	if r.count > 0 {
		r.note(r.write(r.Burst))
		r.Buf, r.count = r.Buf[:0], 0
	}
}

func (r *run) note(err error) {
	if r.err == nil {
		r.err = err
	}
}

// open appends the plaintext of one datagram to dst. The low bits of the
// counter mean the one nearest to what is expected; after a blackout that is
// wrong, and each datagram that does not open is tried with some later wraps.
func (l *Leg) open(dst, d []byte) (plain []byte, flow uint16, ok bool) {
	h, err := proto.ParseHeader(d)
	if err != nil || h.Epoch != 0 || h.Flow > legFlow {
		return dst, 0, false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := proto.CompleteCounter(l.next, h.Counter)
	if plain, ok = l.try(dst, d, h.Flow, c); ok {
		l.search = 0
		return plain, h.Flow, true
	}
	for range legTries {
		l.search++
		if plain, ok = l.try(dst, d, h.Flow, c+l.search*legWrap); ok {
			l.search = 0
			return plain, h.Flow, true
		}
	}
	if l.search >= proto.MaxCounter>>30 {
		l.search = 0 // 2^46 datagrams on, it begins anew
	}
	return dst, 0, false
}

func (l *Leg) try(dst, d []byte, flow uint16, counter uint64) ([]byte, bool) {
	if !fresh(l.ring[:], l.next, counter) {
		return dst, false
	}
	plain, err := l.in.Open(dst, d, flow, counter)
	if err != nil {
		return dst, false
	}
	accept(l.ring[:], &l.next, counter)
	return plain, true
}
