package session

import (
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// instants are the times at which a host had something to send of its own or to
// answer: those less than a moment apart are one.
type instants struct {
	mu    sync.Mutex
	last  time.Time
	count int
	sent  int
}

func (i *instants) note(r natlab.Record) {
	if r.Event != natlab.Sent || r.Place != "a" {
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if r.At.Sub(i.last) > 100*time.Millisecond {
		i.count++
	}
	i.last = r.At
	i.sent++
}

// A host wakes once for all that two idle paths need, its own probes and the
// peer's, and the probes are no more than they were.
func TestIdlePathsWakeAHostOnce(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 2, false)
		p.try(t, 0)
		time.Sleep(4 * time.Second)
		p.try(t, 1)
		time.Sleep(3 * time.Second)
		p.b.Check() // its probes come at other times than ours
		time.Sleep(time.Minute)
		seen := &instants{}
		p.lab.Watch(seen.note)
		const rounds = 20
		time.Sleep(rounds * DefaultTimers().Keepalive)
		seen.mu.Lock()
		defer seen.mu.Unlock()
		t.Logf("%d datagrams sent at %d instants in %d rounds", seen.sent, seen.count, rounds)
		if seen.count > rounds+2 {
			t.Errorf("something was sent at %d instants in %d rounds", seen.count, rounds)
		}
		if most := (rounds + 2) * 4; seen.sent > most { // a probe and an answer for each path
			t.Errorf("%d datagrams were sent, want %d at most", seen.sent, most)
		}
	})
}

// Who has data to send again after a pause is told to the owner, once.
func TestResumed(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, 1, false)
		p.try(t, 0)
		time.Sleep(10 * time.Second)
		for range 3 {
			before := p.a.count(Resumed)
			for range 20 {
				p.a.Send(1, burstOf(0, 1, 100))
				time.Sleep(500 * time.Millisecond)
			}
			if got := p.a.count(Resumed) - before; got != 1 {
				t.Errorf("told %d times that data crosses again, want once", got)
			}
			time.Sleep(30 * time.Second)
		}
	})
}

func (e *end) count(v Event) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, got := range e.events {
		if got == v {
			n++
		}
	}
	return n
}
