package forward

import (
	"testing"
	"time"
)

// An Open that was never sent is due at once. Shifting by the tries before it
// once crashed the agent.
func TestOpenIsDueBeforeItsFirstTry(t *testing.T) {
	o := outgoing{state: opening}
	if !o.due(0) {
		t.Error("the first Open is not due")
	}
	for tries := 1; tries < 100; tries++ {
		o.tries, o.sent = tries, time.Second
		if o.due(time.Second) {
			t.Errorf("after %d tries the next Open is due at once", tries)
		}
		if !o.due(time.Second + openEach<<openDoubled) {
			t.Errorf("after %d tries no Open is due any more", tries)
		}
	}
}
