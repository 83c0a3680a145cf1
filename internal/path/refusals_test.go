package path

import (
	"testing"
	"time"
)

// The rest after RSTs only grows, from none to a bound, and both sides' phases
// still meet.
func TestRestAfterRefusals(t *testing.T) {
	for n, want := range map[int]time.Duration{0: 0, 399: 0, 400: 8 * time.Millisecond, 424: 8 * time.Millisecond,
		425: 16 * time.Millisecond, 499: 64 * time.Millisecond, 500: 128 * time.Millisecond, 1 << 30: 128 * time.Millisecond} {
		if got := meanRest(n); got != want {
			t.Errorf("after %d: %v, want %v", n, got, want)
		}
	}
	last := time.Duration(0)
	for n := range 2000 {
		d := meanRest(n)
		if d < last {
			t.Fatalf("after %d: %v, shorter than before", n, d)
		}
		last = d
	}
	if dense := RefusalsAtOnce * time.Millisecond; dense < 3*last {
		t.Errorf("a side that is late sends densely for %v, in which one that rests %v sends fewer than 3 SYNs", dense, last)
	}
}
