//go:build linux

package main

import (
	"testing"
	"time"
)

func TestDelaysAreKnownToAnEighth(t *testing.T) {
	for _, us := range []uint64{0, 1, 7, 8, 9, 15, 16, 17, 31, 100, 999, 4999, 123456, 1 << 40} {
		least := lowest(rangeOf(us))
		if least > us || us-least > us/8 {
			t.Errorf("%d us count as %d us", us, least)
		}
		if rangeOf(lowest(rangeOf(us))) != rangeOf(us) {
			t.Errorf("the least of the range of %d us is of another", us)
		}
	}
	var d delays
	for us := range 1000 {
		d.add(time.Duration(us) * time.Microsecond)
	}
	if p50, p99 := d.quantile(0.5), d.quantile(0.99); p50 < 440 || p50 > 500 || p99 < 870 || p99 > 990 {
		t.Errorf("of 0 to 999 us p50 is %d and p99 %d", p50, p99)
	}
}
