package pairs

import (
	"slices"
	"time"
)

// Tally is what came of all meetings of two kinds.
type Tally struct {
	A, B    string // kinds; either side may have dialed
	Runs    int
	Direct  int
	Paths   map[string]int // that the dialing side's data took in the end
	Took    []float32      // of those that went directly: milliseconds from the first datagram
	First   []float32      // of these, those of agents that had not met before
	Sent    []int32        // datagrams and segments that each side sent to others than the coordinator
	Reasons map[string]int // of those that did not go directly
}

func newTally(a, b string) *Tally {
	return &Tally{A: a, B: b, Paths: make(map[string]int), Reasons: make(map[string]int)}
}

func (t *Tally) add(m Meeting) {
	t.Runs++
	path := m.Path
	if path == "" {
		path = "none"
	}
	t.Paths[path]++
	t.Sent = append(t.Sent, int32(m.Sent[0]), int32(m.Sent[1]))
	if !m.Direct {
		t.Reasons[m.Explain]++
		return
	}
	t.Direct++
	took := float32(m.Took.Seconds() * 1000)
	t.Took = append(t.Took, took)
	if m.First {
		t.First = append(t.First, took)
	}
}

// Merge takes in another process's meetings of the same two kinds.
func (t *Tally) Merge(o *Tally) {
	t.Runs += o.Runs
	t.Direct += o.Direct
	t.Took = append(t.Took, o.Took...)
	t.First = append(t.First, o.First...)
	t.Sent = append(t.Sent, o.Sent...)
	for k, n := range o.Paths {
		t.Paths[k] += n
	}
	for k, n := range o.Reasons {
		t.Reasons[k] += n
	}
}

// Share is how many of the meetings went directly, 0 to 1.
func (t *Tally) Share() float64 {
	if t.Runs == 0 {
		return 0
	}
	return float64(t.Direct) / float64(t.Runs)
}

// Time is a quantile (0 to 1) of the time to the direct path, 0 where there
// never was one.
func (t *Tally) Time(q float64) time.Duration {
	return time.Duration(quantile(t.Took, q) * float32(time.Millisecond))
}

// Within is how many of the meetings had a direct path so soon, 0 to 1.
func (t *Tally) Within(limit time.Duration) float64 {
	if t.Runs == 0 {
		return 0
	}
	n := 0
	for _, took := range t.Took {
		if took <= float32(limit.Milliseconds()) {
			n++
		}
	}
	return float64(n) / float64(t.Runs)
}

// TimeFirst is the median of those meetings whose agents had not met before.
func (t *Tally) TimeFirst() time.Duration {
	return time.Duration(quantile(t.First, .5) * float32(time.Millisecond))
}

// Packets is a quantile of what a side sent.
func (t *Tally) Packets(q float64) int { return int(quantile(t.Sent, q)) }

// Usual is the most frequent key of counts, the first by name of several.
func Usual(counts map[string]int) string {
	best := ""
	for k, n := range counts {
		if best == "" || n > counts[best] || n == counts[best] && k < best {
			best = k
		}
	}
	return best
}

func quantile[T int32 | float32](v []T, q float64) T {
	if len(v) == 0 {
		return 0
	}
	s := slices.Clone(v)
	slices.Sort(s)
	return s[min(int(q*float64(len(s))), len(s)-1)]
}
