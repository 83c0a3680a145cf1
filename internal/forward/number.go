package forward

import (
	"time"

	"rendezvous/proto"
)

// upperHalf is the first flow number of the side that does not have the lower
// half.
const upperHalf = (1 << proto.FlowBits) / 2

// numbers hands out flow numbers. Both sides of a session draw from one range,
// so each begins with its own half and goes into the other's, from its far
// end, only when its own is full: then both may take one number at once, and
// each refuses the other's flow.
type numbers struct {
	own, ownEnd     int // not used yet: [own, ownEnd)
	other, otherEnd int // not used yet: (otherEnd, other], from above
	freed           []freedNumber
}

type freedNumber struct {
	number uint16
	at     time.Duration // on the clock of the flows
}

func newNumbers(low bool) numbers {
	if low {
		return numbers{own: 1, ownEnd: upperHalf, other: proto.MaxFlow, otherEnd: upperHalf - 1}
	}
	return numbers{own: upperHalf, ownEnd: proto.MaxFlow + 1, other: upperHalf - 1, otherEnd: 0}
}

// take gives a number that nobody uses, the longest unused where there is a
// choice. One that was freed less than rest ago is given only when there is no
// other, so that late datagrams of the old flow do not reach the new one.
func (n *numbers) take(now, rest time.Duration, used func(uint16) bool) (uint16, bool) {
	for n.own < n.ownEnd {
		number := uint16(n.own)
		n.own++
		if !used(number) {
			return number, true
		}
		n.free(number, now) // the peer has it; it may be ours later
	}
	if number, ok := n.again(now, rest, used); ok {
		return number, true
	}
	for n.other > n.otherEnd {
		number := uint16(n.other)
		n.other--
		if !used(number) {
			return number, true
		}
		n.free(number, now)
	}
	return n.again(now, 0, used)
}

// again takes the number that was freed first, if it has rested.
func (n *numbers) again(now, rest time.Duration, used func(uint16) bool) (uint16, bool) {
	for range n.freed {
		first := n.freed[0]
		if now-first.at < rest {
			break
		}
		n.freed = n.freed[1:]
		if !used(first.number) {
			return first.number, true
		}
		n.free(first.number, now)
	}
	return 0, false
}

func (n *numbers) free(number uint16, now time.Duration) {
	n.freed = append(n.freed, freedNumber{number, now})
}
