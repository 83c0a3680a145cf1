package dgram

import (
	"runtime"
	"sync"
)

// Arena lends a reader the memory it reads into, only once there is something
// to read: ten thousand idle flows then hold no buffers. The zero Arena is
// ready.
type Arena struct {
	block  *block
	bursts []Burst
}

// Slots of an arena: how many messages one visit to the kernel may bring (as
// many datagrams of a path with an MTU of 1,452 as one write takes), and the
// room for each, which UDP_GRO may fill to the last byte.
const (
	Slots    = 46
	SlotSize = 64 << 10
)

// laneSize is the memory in which a visit's messages are laid end to end, when
// they are as long as expected. It is small enough to stay in a processor's
// second-level cache until they are used.
const laneSize = 4 * SlotSize

// block is what an arena borrows: rows for bytes, and room for the headers that
// a visit to the kernel needs. The bytes are apart so that the garbage
// collector does not look through them.
type block struct {
	headers headers
	bursts  [Slots]Burst
	rows    *rows
}

// rows are bytes that are touched, and so really there, only where something
// was received. The space between two slots keeps them from falling into the
// same few sets of the processor's cache, as multiples of 64 KiB would.
type rows struct {
	lane  [laneSize]byte
	slots [Slots][SlotSize + 13*64]byte
}

func (b *block) slot(i int) []byte { return b.rows.slots[i][:SlotSize:SlotSize] }

// shelf keeps the blocks that nobody uses at the moment. A sync.Pool would lose
// them to every second garbage collection, and a new block is zeroed, which
// makes all of its memory really there.
type shelf struct {
	mu   sync.Mutex
	free []*block
}

// mostFree is how many unused blocks are worth keeping; about as many readers
// run at a time.
var mostFree = max(4, runtime.NumCPU())

var blocks shelf

func (s *shelf) take() *block {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.free) - 1
	if last < 0 {
		return &block{rows: new(rows)}
	}
	b := s.free[last]
	s.free = s.free[:last]
	return b
}

func (s *shelf) put(b *block) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.free) < mostFree {
		s.free = append(s.free, b)
	}
}

func (a *Arena) borrow() *block {
	if a.block == nil {
		a.block = blocks.take()
		a.bursts = a.block.bursts[:0]
	}
	return a.block
}

// Slot is the i-th buffer, borrowed when first asked for.
func (a *Arena) Slot(i int) []byte { return a.borrow().slot(i) }

// Reset begins a new read: the bursts of the last one are gone.
func (a *Arena) Reset() { a.bursts = a.bursts[:0] }

// Add appends a burst to what this read returns.
func (a *Arena) Add(b Burst) {
	a.borrow()
	a.bursts = append(a.bursts, b)
}

// Bursts is what was added since Reset.
func (a *Arena) Bursts() []Burst { return a.bursts }

// Release gives the memory back.
func (a *Arena) Release() {
	if a.block == nil {
		return
	}
	clear(a.block.bursts[:]) // those of others may point at memory of theirs
	blocks.put(a.block)
	a.block, a.bursts = nil, nil
}
