package punch

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/path"
)

// Budget bounds what punches send beyond the candidates' probes, in datagrams.
type Budget struct {
	PerSecond  int // of all attempts together
	PerTarget  int // to one address, all its ports together, in one attempt
	PerAttempt int // to all addresses
}

// DefaultBudget lets a spray of 1500 ports take three seconds: less than what
// monitoring takes for a flood, and within a carrier's limits of new flows. No
// budget may be larger.
var DefaultBudget = Budget{PerSecond: 500, PerTarget: 2000, PerAttempt: 2500}

// Faults says what is wrong with b: every figure must be positive, and none
// larger than in DefaultBudget.
func (b Budget) Faults() (list []string) {
	for _, f := range []struct {
		name       string
		got, limit int
	}{
		{"per_second", b.PerSecond, DefaultBudget.PerSecond},
		{"per_target", b.PerTarget, DefaultBudget.PerTarget},
		{"per_attempt", b.PerAttempt, DefaultBudget.PerAttempt},
	} {
		if f.got < 1 || f.got > f.limit {
			list = append(list, fmt.Sprintf("%s is %d and must be from 1 to %d: it may be lowered, not raised", f.name, f.got, f.limit))
		}
	}
	return list
}

// Ration is what all attempts of one host share: the pace of Budget, the turn
// to spray, and the counters. May be used from many goroutines at once.
type Ration struct {
	Budget Budget
	Sent   atomic.Uint64 // datagrams
	// Cut counts attempts that a budget ended, or the pace kept from sending all.
	Cut atomic.Uint64
	// Refused counts datagrams that the network answered by ICMP as unreachable,
	// where the system tells of that (dgram.RefusalCounter).
	Refused atomic.Uint64

	turn chan struct{} // held by the one that sprays
	mu   sync.Mutex
	next time.Time // when the pace has room for one more
}

// NewRation shares out a budget.
func NewRation(b Budget) *Ration { return &Ration{Budget: b, turn: make(chan struct{}, 1)} }

// Spraying says whether an attempt sprays now.
func (r *Ration) Spraying() bool { return len(r.turn) > 0 }

// spray waits for the turn to spray, which release ends; false where ctx ended
// first. Two at a time would fill a router's table twice as fast, and neither
// would be quicker: they share the pace.
func (r *Ration) spray(ctx context.Context) (release func(), ok bool) {
	select {
	case r.turn <- struct{}{}:
		return func() { <-r.turn }, true
	case <-ctx.Done():
		return nil, false
	}
}

// slack is how late a datagram may leave without slowing down those behind it:
// what timers and a busy processor cost.
const slack = 20 * time.Millisecond

// pace waits for room for one datagram, and counts it; false where ctx ended
// first.
func (r *Ration) pace(ctx context.Context) bool {
	now := time.Now()
	r.mu.Lock()
	if r.next.Before(now.Add(-slack)) {
		r.next = now
	}
	at := r.next
	r.next = at.Add(time.Second / time.Duration(max(r.Budget.PerSecond, 1)))
	r.mu.Unlock()
	if !path.Wait(ctx, time.Until(at)) {
		return false
	}
	r.Sent.Add(1)
	return true
}

// wariness backs away where the network answers shots by refusals: some that
// are refused are a NAT's way to say no, and a flood of them is a network that
// takes the shots for an attack.
type wariness struct {
	shots  int // since the last look
	factor int // of the pace's gaps; 0: there was no reason yet
}

const (
	lookEvery  = 50 // shots: a tenth of a second at the full pace
	tooMany    = 10 // refusals of them. Linux tells one host of 6 at once, and of one a second (icmp_ratelimit)
	mostFactor = 4
)

// shot counts one; true says that it is time to look.
func (w *wariness) shot() bool {
	w.shots++
	return w.shots%lookEvery == 0
}

// saw takes the refusals in since the last look: a flood halves the pace, and
// ends the attempt, with false, when that was done twice.
func (w *wariness) saw(refused int) bool {
	if refused < tooMany {
		return true
	}
	w.factor = 2 * max(w.factor, 1)
	return w.factor <= mostFactor
}

// gap is the wait between two shots, 0 where the pace alone counts.
func (w *wariness) gap(b Budget) time.Duration {
	return time.Duration(w.factor) * time.Second / time.Duration(max(b.PerSecond, 1))
}
