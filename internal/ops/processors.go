package ops

import (
	"os"
	"runtime"
)

// HalfTheProcessors has the program's goroutines run on half of the processors
// that there are for it, one at least, unless the environment says how many
// (GOMAXPROCS).
//
// The rest is the kernel's, which does most of the work for a datagram, and that
// of the programs whose data it is. A datagram's way is a chain of goroutines,
// of which one wakes the next; Go's scheduler wakes a further processor each
// time, to see whether it could help, and the chain moves there and back. With
// two processors that was a third of what a TCP service cost.
func HalfTheProcessors() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(half(runtime.GOMAXPROCS(0)))
	}
}

func half(processors int) int { return max(1, processors/2) }
