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
