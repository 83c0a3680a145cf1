package bubble

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// Timers that are due at once, found by several goroutines: outside of Test
// the race detector dies of this within a second.
func TestTimersDueAtOnce(t *testing.T) {
	usual := runtime.GOMAXPROCS(0)
	Test(t, func(t *testing.T) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 2000 {
					<-time.NewTimer(0).C
					time.AfterFunc(0, func() {})
					time.Sleep(time.Nanosecond)
				}
			})
		}
		all.Wait()
	})
	if got := runtime.GOMAXPROCS(0); got != usual {
		t.Errorf("after the bubble Go has %d processors, had %d before", got, usual)
	}
}
