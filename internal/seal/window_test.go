package seal

import (
	"math/rand/v2"
	"testing"

	"rendezvous/proto"
)

// model is the window as one would say it.
type model struct {
	next uint64
	seen map[uint64]bool
}

func (m *model) accept(c uint64) bool {
	if c >= proto.MaxCounter || m.seen[c] || c+WindowSize < m.next {
		return false
	}
	m.seen[c] = true
	m.next = max(m.next, c+1)
	return true
}

func (m *model) jump(next uint64) {
	if next <= proto.MaxCounter {
		m.next = max(m.next, next)
	}
}

// step says how far to go from the highest counter: mostly near, at times to
// every edge.
func step(r *rand.Rand, next uint64) uint64 {
	edges := []uint64{0, 1, 63, 64, 65, WindowSize - 1, WindowSize, WindowSize + 1, WindowSize + 64, 2 * WindowSize, 2*WindowSize + 1, 1 << 40}
	d := edges[r.IntN(len(edges))]
	if r.IntN(4) > 0 {
		d = r.Uint64N(3 * WindowSize)
	}
	if r.IntN(2) == 0 {
		return next - min(d, next)
	}
	return next + d
}

func TestWindowAgreesWithModel(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		var w Window
		m := model{seen: map[uint64]bool{}}
		if seed%4 == 3 {
			start := proto.MaxCounter - r.Uint64N(4*WindowSize)
			w.Jump(start)
			m.jump(start)
		}
		for range 20000 {
			c := step(r, m.next)
			if r.IntN(50) == 0 {
				w.Jump(c)
				m.jump(c)
			}
			fresh := w.Fresh(c)
			got, want := w.Accept(c), m.accept(c)
			if got != want || fresh != want || w.Expected() != m.next {
				t.Fatalf("seed %d counter %d: fresh %v accept %v expected %d; the model says %v and %d",
					seed, c, fresh, got, w.Expected(), want, m.next)
			}
		}
	}
}

func TestWindowIsExactlyItsSize(t *testing.T) {
	for _, top := range []uint64{WindowSize, 1 << 20, 1<<20 + 63, proto.MaxCounter - 1} {
		var w Window
		if !w.Accept(top) || w.Accept(top) || w.Expected() != top+1 {
			t.Fatalf("top %d", top)
		}
		oldest := top - (WindowSize - 1)
		if w.Fresh(oldest-1) || w.Accept(oldest-1) {
			t.Errorf("top %d: %d back is too old", top, WindowSize)
		}
		if !w.Accept(oldest) || w.Accept(oldest) {
			t.Errorf("top %d: %d back is fresh, once", top, WindowSize-1)
		}
	}
}

func TestWindowEnds(t *testing.T) {
	var w Window
	if w.Expected() != 0 || !w.Fresh(0) {
		t.Error("the zero window expects 0")
	}
	for _, c := range []uint64{proto.MaxCounter, proto.MaxCounter + 1, 1<<64 - 1} {
		if w.Fresh(c) || w.Accept(c) || w.Expected() != 0 {
			t.Errorf("%d was taken", c)
		}
	}
	w.Jump(1<<64 - 1)
	w.Jump(proto.MaxCounter + 1)
	if w.Expected() != 0 {
		t.Error("it jumped over the end")
	}
	w.Jump(proto.MaxCounter)
	if w.Expected() != proto.MaxCounter || !w.Accept(proto.MaxCounter-1) || w.Accept(proto.MaxCounter-1) {
		t.Error("the last counter is fresh, once")
	}
}

func TestWindowJumpKeepsWhatCameBefore(t *testing.T) {
	var w Window
	for c := range uint64(100) {
		w.Accept(2 * c)
	}
	w.Jump(5000)
	w.Jump(10) // never back
	if w.Expected() != 5000 {
		t.Errorf("expected %d", w.Expected())
	}
	for c := range uint64(5000) {
		seen := c < 200 && c%2 == 0
		if w.Fresh(c) == seen {
			t.Fatalf("counter %d fresh: %v", c, !seen)
		}
	}
}

func FuzzWindow(f *testing.F) {
	f.Add([]byte{0, 1, 200, 1, 255, 3, 7})
	f.Fuzz(func(t *testing.T, steps []byte) {
		var w Window
		m := model{seen: map[uint64]bool{}}
		for i := 0; i+1 < len(steps); i += 2 {
			distance := uint64(steps[i+1]) << (steps[i] & 15)
			c := m.next + distance
			if steps[i]&0x10 != 0 {
				c = m.next - min(distance, m.next)
			}
			if steps[i]&0x20 != 0 {
				w.Jump(c)
				m.jump(c)
			} else if got, want := w.Accept(c), m.accept(c); got != want {
				t.Fatalf("step %d: counter %d: %v, want %v", i/2, c, got, want)
			}
			if w.Expected() != m.next {
				t.Fatalf("step %d: expected %d, want %d", i/2, w.Expected(), m.next)
			}
		}
	})
}

func BenchmarkWindow(b *testing.B) {
	var w Window
	for i := range b.N {
		w.Accept(uint64(i))
	}
}
