package dgram

import "sync"

// Arena lends a reader the memory it reads into, only once there is something
// to read: ten thousand idle flows then hold no buffers. The zero Arena is
// ready.
type Arena struct {
	block  *block
	bursts []Burst
}

// Slots of an arena: how many messages one visit to the kernel may bring, and
// the room for each, which UDP_GRO may fill to the last byte.
const (
	Slots    = 16
	SlotSize = 64 << 10
)

// stagger is the space between two slots. Slots that begin at multiples of
// 64 KiB would all fall into the same few sets of the processor's cache.
const stagger = 13 * 64

// block is what an arena borrows: rows for bytes, and room for the headers that
// a visit to the kernel needs. The rows are apart so that the garbage collector
// does not look through them.
type block struct {
	headers headers
	bursts  [Slots]Burst
	rows    *rows
}

// rows are the slots, and before them the row in which datagrams that come one
// by one are laid end to end.
type rows [Slots + 1][SlotSize + stagger]byte

var blocks = sync.Pool{New: func() any { return &block{rows: new(rows)} }}

func (a *Arena) borrow() *block {
	if a.block == nil {
		a.block = blocks.Get().(*block)
		a.bursts = a.block.bursts[:0]
	}
	return a.block
}

// Slot is the i-th buffer, taken from the pool when first asked for.
func (a *Arena) Slot(i int) []byte { return a.borrow().slot(i) }

func (b *block) slot(i int) []byte { return b.rows[i+1][:SlotSize:SlotSize] }

func (b *block) lane() []byte { return b.rows[0][:SlotSize:SlotSize] }

// Reset begins a new read: the bursts of the last one are gone.
func (a *Arena) Reset() { a.bursts = a.bursts[:0] }

// Add appends a burst to what this read returns.
func (a *Arena) Add(b Burst) {
	a.borrow()
	a.bursts = append(a.bursts, b)
}

// Bursts is what was added since Reset.
func (a *Arena) Bursts() []Burst { return a.bursts }

// Release gives the memory back to the pool.
func (a *Arena) Release() {
	if a.block == nil {
		return
	}
	clear(a.block.bursts[:])
	blocks.Put(a.block)
	a.block, a.bursts = nil, nil
}
