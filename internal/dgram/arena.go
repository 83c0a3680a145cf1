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

type block [Slots][SlotSize]byte

var blocks = sync.Pool{New: func() any { return new(block) }}

// Slot is the i-th buffer, taken from the pool when first asked for.
func (a *Arena) Slot(i int) []byte {
	if a.block == nil {
		a.block = blocks.Get().(*block)
	}
	return a.block[i][:]
}

// Reset begins a new read: the bursts of the last one are gone.
func (a *Arena) Reset() { a.bursts = a.bursts[:0] }

// Add appends a burst to what this read returns.
func (a *Arena) Add(b Burst) { a.bursts = append(a.bursts, b) }

// Bursts is what was added since Reset.
func (a *Arena) Bursts() []Burst { return a.bursts }

// Release gives the memory back to the pool.
func (a *Arena) Release() {
	a.Reset()
	if a.block != nil {
		blocks.Put(a.block)
		a.block = nil
	}
}
