package share

import (
	"errors"
	"testing"

	"github.com/rs/zerolog"
)

// A backend that is down over both says so of both, in one order.
func TestProblems(t *testing.T) {
	b := backend{log: zerolog.Nop()}
	for range 20 {
		b.failed("udp", "127.0.0.1:1", errors.New("no answer"))
		b.failed("tcp", "127.0.0.1:1", errors.New("refused"))
		if got := b.problem(); got != "tcp: refused; udp: no answer" {
			t.Fatalf("it says %q", got)
		}
		b.works("tcp")
		if got := b.problem(); got != "udp: no answer" {
			t.Fatalf("over UDP alone it says %q", got)
		}
		b.works("udp")
		if got := b.problem(); got != "" {
			t.Fatalf("it is back, and says %q", got)
		}
	}
}
