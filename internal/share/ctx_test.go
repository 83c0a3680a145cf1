package share

import (
	"context"
	"testing"
)

// contextOf is cancelled by the test, not by its end: a bubble of synctest
// waits for its goroutines before that.
func contextOf(t testing.TB) (context.Context, context.CancelFunc) {
	return context.WithCancel(context.WithoutCancel(t.Context()))
}
