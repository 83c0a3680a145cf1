package punch

import (
	"context"
	"time"

	"rendezvous/proto"
)

// The ports that NATs give to mappings.
const (
	lowest  = 1024
	highest = 65535
)

// predict is the ports that a NAT gives next: n of them, after the last one
// that was seen and so many ahead, stride steps apart. It goes round at the ends of the range.
func predict(b *proto.Behaviour, n, ahead, stride int) []uint16 {
	last, step := int(b.GetLastPort()), int(b.GetPortDelta())
	if last == 0 || step == 0 {
		return nil
	}
	const span = highest - lowest + 1
	ports := make([]uint16, 0, n)
	for k := range n {
		at := (last-lowest+step*(1+ahead+k*max(stride, 1)))%span + span
		ports = append(ports, uint16(lowest+at%span))
	}
	return ports
}

// Foreseen is the ports that a role aims at, where a NAT's next ones can be
// told.
func Foreseen(theirs *proto.Behaviour, r Role) []uint16 {
	return predict(theirs, r.Window, r.Ahead, r.Stride)
}

// Pace waits for room for one shot of another transport than UDP, and counts it;
// false where ctx ended first.
func (r *Ration) Pace(ctx context.Context) bool { return r.pace(ctx) }

// AimRounds are when what is foreseen is shot at, counted from the instant to
// fire.
func AimRounds() []time.Duration { return predictRounds }

// scatter is n different ports by chance out of those that a NAT takes new ones
// from. What was seen of a band is widened by a quarter at each end: few
// samples fall short of both (81.5 to 96.2 % hit with it, by a measurement at a
// carrier).
func scatter(b *proto.Behaviour, n int, choose func(int) int) []uint16 {
	low, high := lowest, highest
	if b.GetPortHigh() > b.GetPortLow() {
		wide := int(b.GetPortHigh()-b.GetPortLow())/4 + 1
		low, high = max(low, int(b.GetPortLow())-wide), min(high, int(b.GetPortHigh())+wide)
	}
	span := high - low + 1
	n = min(n, span)
	taken := make(map[int]bool, n)
	ports := make([]uint16, 0, n)
	for len(ports) < n {
		at := choose(span)
		if n == span {
			at = len(ports)
		}
		if !taken[at] {
			taken[at] = true
			ports = append(ports, uint16(low+at))
		}
	}
	return ports
}
