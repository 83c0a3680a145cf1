package stream

import "sync"

// The two sizes of memory that a connection borrows: one that is quiet or
// chatty needs little, and one in bulk is moved in large pieces.
const (
	smallBlock = 4 << 10
	largeBlock = 64 << 10
)

var (
	smallBlocks = sync.Pool{New: func() any { return new([smallBlock]byte) }}
	largeBlocks = sync.Pool{New: func() any { return new([largeBlock]byte) }}
)

// lend gives empty memory of one of the two sizes.
func lend(large bool) []byte {
	if large {
		return largeBlocks.Get().(*[largeBlock]byte)[:0]
	}
	return smallBlocks.Get().(*[smallBlock]byte)[:0]
}

// giveBack takes what lend gave.
func giveBack(b []byte) {
	switch cap(b) {
	case smallBlock:
		smallBlocks.Put((*[smallBlock]byte)(b[:smallBlock]))
	case largeBlock:
		largeBlocks.Put((*[largeBlock]byte)(b[:largeBlock]))
	}
}
