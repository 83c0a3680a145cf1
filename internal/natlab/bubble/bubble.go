// Package bubble runs tests in virtual time.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// processors is how many Go has while no bubble is open.
var processors struct {
	sync.Mutex
	open  int
	usual int
}

// Test is synctest.Test. Under the race detector Go has one processor until
// the last bubble ends: the runtime runs the timers of a bubble wherever one
// is found due, on several threads at once, and lends all of them the bubble's
// one race context (timer.unlockAndRun of Go 1.26), on whose stack of calls
// the detector then dies. On one processor they follow one another. The
// detector loses little by it: it looks for what is not ordered, not for what
// happens at the same instant.
func Test(t *testing.T, f func(*testing.T)) {
	t.Helper()
	if underRace {
		enter()
		defer leave()
	}
	synctest.Test(t, f)
}

func enter() {
	processors.Lock()
	defer processors.Unlock()
	if processors.open++; processors.open == 1 {
		processors.usual = runtime.GOMAXPROCS(1)
	}
}

func leave() {
	processors.Lock()
	defer processors.Unlock()
	if processors.open--; processors.open == 0 {
		runtime.GOMAXPROCS(processors.usual)
	}
}
