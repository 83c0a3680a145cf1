//go:build linux

package main

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/natlab/throng/orders"
)

// answerWithin is a little more than the coordinator waits for an answer.
const answerWithin = 12 * time.Second

// introduce has random agents introduced to each other at a steady pace.
func (t *throng) introduce(ctx context.Context, order orders.Introduce) (orders.Introductions, error) {
	all := t.all()
	began := time.Now()
	total := int(order.Rate * order.Seconds)
	var mu sync.Mutex
	var out orders.Introductions
	var tasks sync.WaitGroup
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for out.Asked < total {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return out, ctx.Err()
		}
		due := min(int(time.Since(began).Seconds()*order.Rate), total)
		for ; out.Asked < due; out.Asked++ {
			i := rand.IntN(len(all))
			from, to := all[i], all[(i+1+rand.IntN(len(all)-1))%len(all)]
			tasks.Go(func() {
				took, ok := t.introduceTwo(ctx, from, to, order.Relay)
				mu.Lock()
				defer mu.Unlock()
				if ok {
					out.Took = append(out.Took, float64(took.Microseconds())/1e3)
					out.Seconds = time.Since(began).Seconds()
				}
			})
		}
	}
	tasks.Wait()
	out.Answered = len(out.Took)
	slices.Sort(out.Took)
	return out, nil
}

// introduceTwo waits until the peer has answered.
func (t *throng) introduceTwo(ctx context.Context, from, to *agent, relay bool) (time.Duration, bool) {
	began := time.Now()
	number, err := from.introduce(ctx, to, relay)
	if err != nil {
		t.fail("introduce", err)
		return 0, false
	}
	answer := make(chan time.Time, 1)
	t.mu.Lock()
	if at, ok := t.early[number]; ok {
		delete(t.early, number)
		t.mu.Unlock()
		return at.Sub(began), true
	}
	t.asked[number] = answer
	t.mu.Unlock()
	timer := time.NewTimer(answerWithin)
	defer timer.Stop()
	select {
	case at := <-answer:
		return at.Sub(began), true
	case <-timer.C:
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.asked, number)
	return 0, false
}
