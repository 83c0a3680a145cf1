package path

import (
	"context"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
)

func TestWait(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		for _, c := range []struct {
			d, took time.Duration
			whole   bool
		}{
			{-time.Second, 0, true},
			{0, 0, true},
			{400 * time.Millisecond, 400 * time.Millisecond, true},
			{time.Minute, 600 * time.Millisecond, false},
			{0, 0, false},
		} {
			began := time.Now()
			if whole := Wait(ctx, c.d); whole != c.whole || time.Since(began) != c.took {
				t.Errorf("the wait for %v was %v and ended whole: %v; want %v, %v", c.d, time.Since(began), whole, c.took, c.whole)
			}
		}
	})
}
