package rendezvous

import (
	"time"

	"github.com/quic-go/quic-go"
)

// fireAfter says how long each of two agents waits after a message that leaves
// for both at once, so that both fire at the same instant: the nearer one by
// half the difference of the round trips, the farther one not at all.
func fireAfter(roundTripA, roundTripB time.Duration) (a, b time.Duration) {
	half := (roundTripB - roundTripA) / 2
	return max(half, 0), max(-half, 0)
}

// maxFireAfter bounds what a wrong estimate can cost: beyond this, agents
// would wait longer for the instant than probes take to be repeated.
const maxFireAfter = 500 * time.Millisecond

// roundTrip is the estimate of an agent's round trip. What a message needs is
// the shortest seen; the rest was queues. But a connection keeps its shortest
// for ever, so when even the smoothed value less its deviation is far above
// it, the way has become longer, and the smoothed one counts.
func roundTrip(s quic.ConnectionStats) time.Duration {
	if s.MinRTT <= 0 {
		return s.SmoothedRTT
	}
	if s.SmoothedRTT-2*s.MeanDeviation > s.MinRTT+s.MinRTT/4+10*time.Millisecond {
		return s.SmoothedRTT
	}
	return s.MinRTT
}

// microseconds is d for the wire.
func microseconds(d time.Duration) uint32 {
	return uint32(min(max(d, 0), time.Hour) / time.Microsecond)
}
