package ops

import (
	"runtime"
	"testing"
)

func TestHalfTheProcessorsLeavesOneAtLeast(t *testing.T) {
	for have, want := range map[int]int{1: 1, 2: 1, 3: 1, 4: 2, 7: 3, 64: 32} {
		if got := half(have); got != want {
			t.Errorf("%d of %d processors, not %d", got, have, want)
		}
	}
}

func TestEnvironmentSaysHowManyProcessors(t *testing.T) {
	t.Setenv("GOMAXPROCS", "3")
	usual := runtime.GOMAXPROCS(0)
	HalfTheProcessors()
	if got := runtime.GOMAXPROCS(0); got != usual {
		t.Errorf("%d processors; before %d", got, usual)
	}
}
