// Package ladder climbs the rungs towards a peer side by side, each after its
// head start, and keeps the record of what was tried. It owns no socket.
package ladder

import (
	"context"
	"errors"
	"sync"
	"time"

	"rendezvous/internal/path"
)

// Rung is one technique, prepared for one introduction. Climb blocks until it
// has a path that works or knows that there is none; the error is best a
// *path.Failure.
type Rung interface {
	Kind() path.Kind
	Climb(ctx context.Context, try path.Try) error
}

// Step is a rung and how long the others have a head start.
type Step struct {
	Rung  Rung
	After time.Duration
}

// Results of an attempt.
const (
	OK      = "ok"
	Failed  = "failed"
	Skipped = "skipped"
)

// Attempt is one climb of one rung.
type Attempt struct {
	Kind     path.Kind
	Result   string
	Reason   string
	Evidence string
	Advice   string
	Started  time.Time
	Took     time.Duration
}

// Climb climbs all steps at once and returns when each has ended. Every
// attempt is recorded as it ends; record is called from one goroutine at a
// time.
func Climb(ctx context.Context, steps []Step, try path.Try, record func(Attempt)) {
	var wait sync.WaitGroup
	var mu sync.Mutex
	for _, s := range steps {
		wait.Go(func() {
			if !path.Wait(ctx, s.After) {
				return
			}
			began := time.Now()
			err := s.Rung.Climb(ctx, try)
			a := describe(s.Rung.Kind(), err)
			a.Started, a.Took = began, time.Since(began)
			mu.Lock()
			defer mu.Unlock()
			record(a)
		})
	}
	wait.Wait()
}

func describe(k path.Kind, err error) Attempt {
	a := Attempt{Kind: k, Result: OK}
	if err == nil {
		return a
	}
	a.Result = Failed
	var f *path.Failure
	switch {
	case errors.As(err, &f):
		a.Reason, a.Evidence, a.Advice = f.Reason, f.Evidence, f.Advice
		if f.Skipped {
			a.Result = Skipped
		}
	case errors.Is(err, context.Canceled):
		a.Result, a.Reason = Skipped, "not-needed"
		a.Evidence = "ended before it was decided"
	default:
		a.Reason, a.Evidence = "error", err.Error()
	}
	return a
}
