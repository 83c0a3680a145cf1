package path

import (
	"context"
	"time"
)

// Wait waits for d, and ends early, with false, when ctx does. Where there is
// nothing to wait for it costs no timer: each shot of a spray comes by here.
func Wait(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
