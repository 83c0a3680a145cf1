package agent

import (
	"context"
	"time"

	"rendezvous/proto"
)

// Waits before a session without a relay leg asks for one again.
const (
	spareFirst = 10 * time.Second
	spareMost  = 5 * time.Minute
)

// needSpare asks for another allocation if it is for us to do, without a
// punch.
func (as *association) needSpare() {
	if as.initiator && as.raw == nil && as.a.relayAllowed() && as.a.link.current() != nil {
		as.a.tasks.start(as.fetchSpare)
	}
}

// spareDue says whether the session has no relay leg and its last attempt to
// get one is long enough ago.
func (as *association) spareDue(now time.Time) bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	return len(as.sockets.legs) == 0 && now.Sub(as.spare.at) > as.spare.wait
}

// fetchSpare is called when the relay forgot our leg, whenever the coordinator
// is back, and again until there is one.
func (as *association) fetchSpare(ctx context.Context) {
	as.mu.Lock()
	idle := len(as.sockets.legs) == 0 && !as.spare.busy && !as.sockets.closed
	if idle {
		as.spare.busy = true
	}
	as.mu.Unlock()
	if !idle {
		return
	}
	// Why not is in the log of attempts, or comes again.
	_ = as.fresh(ctx, &proto.Again{}, freshening{target: as})
	as.mu.Lock()
	defer as.mu.Unlock()
	as.spare.busy, as.spare.at = false, time.Now()
	if as.spare.wait = min(2*as.spare.wait, spareMost); len(as.sockets.legs) > 0 {
		as.spare.wait = spareFirst
	}
}
