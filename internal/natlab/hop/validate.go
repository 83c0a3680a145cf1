//go:build linux

package hop

import "sync/atomic"

// Validate refuses, with a RST to its sender, what a TCP that keeps to RFC 9293
// never sends: a second SYN with another initial sequence number, a segment of
// no connection, an acknowledgement below the other side's SYN or above what
// the other side has sent.
type Validate struct {
	Violations atomic.Uint64
	flows      map[Flow]*tracked
}

// tracked are both directions of a flow, outward first.
type tracked [2]direction

type direction struct {
	opened  bool
	initial uint32
	next    uint32 // the highest sequence number sent, plus length
}

// Pass looks at every segment. A RST ends the flow.
func (v *Validate) Pass(p Passage) Verdict {
	s, ok := TCP(p.Packet)
	if !ok {
		return Forward
	}
	flow := flowOf(p.Packet, s, p.Outward)
	if s.Reset() {
		delete(v.flows, flow)
		return Forward
	}
	t := v.flows[flow]
	if t == nil {
		if v.flows == nil || len(v.flows) >= maxFlows {
			v.flows = map[Flow]*tracked{}
		}
		t = &tracked{}
		v.flows[flow] = t
	}
	mine, other := &t[0], &t[1]
	if !p.Outward {
		mine, other = other, mine
	}
	if !mine.permits(s) || s.Has(flagACK) && !other.acknowledges(s.Acknowledged()) {
		v.Violations.Add(1)
		delete(v.flows, flow)
		return Refuse
	}
	return Forward
}

// permits takes a segment of this direction in.
func (d *direction) permits(s Segment) bool {
	end := s.Sequence() + s.length()
	switch {
	case s.Has(flagSYN) && !d.opened:
		d.opened, d.initial, d.next = true, s.Sequence(), end
	case s.Has(flagSYN):
		return s.Sequence() == d.initial
	case !d.opened:
		return false
	case int32(end-d.next) > 0:
		d.next = end
	}
	return true
}

// acknowledges says whether the other direction may acknowledge that.
func (d *direction) acknowledges(n uint32) bool {
	return d.opened && int32(n-d.initial) > 0 && int32(n-d.next) <= 0
}
