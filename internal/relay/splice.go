package relay

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// ErrNotYours is the error of Splice where a bind does not give the right to
// join.
var ErrNotYours = errors.New("the bind is not of a leg of this member's that lives")

// Splice is a leg that takes part in its allocation by a stream of bytes beside
// its datagrams. It moves no address.
type Splice struct {
	server *Server
	leg    *leg
	bind   proto.Bind
}

// Splice takes the bind that a stream of a member's began with.
func (s *Server) Splice(member string, b []byte) (*Splice, error) {
	bind, err := proto.ParseBind(b)
	if err != nil || bind.Bound {
		return nil, fmt.Errorf("relay: splice: %w", errors.Join(ErrNotYours, err))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.allocations[bind.Allocation]
	if a == nil || a.gone() || a.public != nil || a.members[bind.Leg] != member {
		return nil, ErrNotYours
	}
	l := &a.legs[bind.Leg]
	if !seal.CheckBind(l.key[:], bind) {
		return nil, ErrNotYours
	}
	if a.over == nil {
		a.over = make(chan struct{})
	}
	return &Splice{server: s, leg: l, bind: bind}, nil
}

// Name is the allocation, the leg, and the number that both legs' binds have.
func (p *Splice) Name() (allocation proto.Token, leg uint8, number uint64) {
	return p.bind.Allocation, p.bind.Leg, p.bind.Counter
}

// Over is closed when the allocation has ended.
func (p *Splice) Over() <-chan struct{} { return p.leg.allocation.over }

// Bound tells the leg that the other is there too.
func (p *Splice) Bound() []byte {
	b := p.bind
	b.Bound, b.Both = true, true
	b.MAC = seal.BindMAC(p.leg.key[:], b)
	return proto.AppendBind(nil, b)
}

// Take says whether n bytes from the leg may pass now, by the rate that its
// datagrams have too, and counts them.
func (p *Splice) Take(now time.Time, n int) bool {
	s := p.server
	if p.leg.bucket.take(now, s.limits.Bytes, s.limits.Datagrams, 1, n) == 0 {
		return false
	}
	s.count.bytes.Add(uint64(n))
	return true
}

// Splice is the bind that a stream of this leg's begins with; number names the
// stream among those of the allocation, and is the same on both legs.
func (l *Leg) Splice(number uint64) []byte {
	b := l.bind
	b.Counter = number
	b.MAC = seal.BindMAC(l.key, b)
	return proto.AppendBind(nil, b)
}

// Spliced checks what the relay answered to that.
func (l *Leg) Spliced(number uint64, answer []byte) error {
	b, err := proto.ParseBind(answer)
	if err != nil || !b.Bound || !b.Both || b.Allocation != l.bind.Allocation || b.Leg != l.bind.Leg || b.Counter != number || !seal.CheckBind(l.key, b) {
		return errors.New("what the relay answered is no bound of this splice")
	}
	return nil
}

// Allocation is the leg's.
func (l *Leg) Allocation() proto.Token { return l.bind.Allocation }

// numbers keeps those of Number apart.
var numbers atomic.Uint64

// Number is a number for a new splice.
func Number() uint64 {
	for {
		last := numbers.Load()
		next := max(last+1, uint64(time.Now().UnixNano()))
		if numbers.CompareAndSwap(last, next) {
			return next
		}
	}
}
