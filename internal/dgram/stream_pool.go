package dgram

import "sync"

// The sizes of memory that streams borrow: the least that waits for the first
// bytes of an idle one; a datagram or two; a record of TLS; the longest
// datagram, or a burst with its lengths (MaxBytes + 64 lengths of two bytes),
// rounded to what the allocator gives anyway.
var pieceSizes = [...]int{512, 4 << 10, 16 << 10, 72 << 10}

// mostPiece is the largest of them.
const mostPiece = 72 << 10

var pieces [len(pieceSizes)]sync.Pool

// fitting is the size of what lend gives for n.
func fitting(n int) int {
	for _, size := range pieceSizes {
		if n <= size {
			return size
		}
	}
	return n
}

// lend gives empty memory with room for n bytes, n <= mostPiece.
func lend(n int) []byte {
	size := fitting(n)
	for i := range pieces {
		if pieceSizes[i] != size {
			continue
		}
		if p, ok := pieces[i].Get().(*[]byte); ok {
			return (*p)[:0]
		}
	}
	return make([]byte, 0, size)
}

// giveBack takes what lend gave.
func giveBack(b []byte) {
	for i, size := range pieceSizes {
		if cap(b) == size {
			b = b[:0]
			pieces[i].Put(&b)
			return
		}
	}
}
