package dgram

import "sync"

// Totals is a Network that counts over all its sockets.
type Totals interface {
	// Totals are those of the open sockets and of those that were closed.
	Totals() Stats
}

// Reasons are the datagrams that were lost, by reason, as status shows them.
func (s Stats) Reasons() map[string]uint64 {
	return map[string]uint64{
		"socket-full": s.Full, "socket-too-large": s.TooLarge, "socket-denied": s.Denied,
		"socket-unreachable": s.Unreachable, "socket-failed": s.Failed, "socket-overflow": s.Overflow,
	}
}

func (s *Stats) add(o Stats) {
	s.Full += o.Full
	s.TooLarge += o.TooLarge
	s.Denied += o.Denied
	s.Unreachable += o.Unreachable
	s.Failed += o.Failed
	s.ICMP += o.ICMP
	s.Overflow += o.Overflow
	s.OneByOne += o.OneByOne
}

// roll is the sockets of a Network that are open, and what those that are not had
// counted.
type roll struct {
	mu   sync.Mutex
	open map[StatsReader]struct{}
	past Stats
}

func newRoll() *roll { return &roll{open: map[StatsReader]struct{}{}} }

func (r *roll) enter(c StatsReader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[c] = struct{}{}
}

// leave is called before c is closed, for the kernel counts only as long.
func (r *roll) leave(c StatsReader) {
	if r == nil {
		return // in tests a socket may be nobody's
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.open[c]; ok {
		delete(r.open, c)
		r.past.add(c.Stats())
	}
}

// Totals is Totals's.
func (r *roll) Totals() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := r.past
	for c := range r.open {
		sum.add(c.Stats())
	}
	return sum
}
