package relay

import (
	"bytes"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// leg is one side of an allocation. Server.mu guards the plain fields.
type leg struct {
	allocation *allocation
	index      uint8
	key        [32]byte
	at         atomic.Pointer[source] // where the leg is; nil while it is not bound
	bucket     bucket
	counter    uint64    // of the last valid bind
	bound      time.Time // when that came

	held          []dgram.Burst // from this leg, until the other is bound
	heldDatagrams int
	heldSince     time.Time
}

func (l *leg) other() *leg { return &l.allocation.legs[1-l.index] }

// What is held for a leg that is not bound yet, so that the first datagrams of
// a session need not be sent twice. An agent binds within a few round trips; a
// datagram older than holdFor has been sent again by whoever still wants it.
const (
	holdDatagrams = 16
	holdBytes     = 24 << 10
	holdFor       = 5 * time.Second
	holdTotal     = 16 << 20 // in bytes, for all allocations
)

// hold keeps as much of the burst as there is room for.
func (s *Server) hold(l *leg, b dgram.Burst, now time.Time) {
	n := b.Len()
	s.mu.Lock()
	if to := l.other().at.Load(); to != nil { // it was bound just now
		s.mu.Unlock()
		s.forward(l, b, now)
		return
	}
	defer s.mu.Unlock()
	keep := 0
	// What an agent sends before its leg has a client is for nobody: the next
	// client did not ask for it.
	if !l.allocation.gone() && (l.allocation.public == nil || l.index == 1) {
		keep = min(n, holdDatagrams-l.heldDatagrams)
		for keep > 0 && !l.roomFor(min(keep*b.Size, len(b.Buf)), s.heldBytes) {
			keep--
		}
	}
	s.count.drop(otherUnbound, n-keep)
	if keep == 0 {
		return
	}
	if len(l.held) == 0 {
		l.heldSince = now
	}
	b.Buf = bytes.Clone(b.Buf[:min(keep*b.Size, len(b.Buf))])
	l.held = append(l.held, b)
	l.heldDatagrams += keep
	s.heldBytes += len(b.Buf)
}

func (l *leg) roomFor(n, total int) bool {
	mine := 0
	for _, b := range l.held {
		mine += len(b.Buf)
	}
	return mine+n <= holdBytes && total+n <= holdTotal
}

// dropHeld forgets what the leg holds, and says how many datagrams that was.
func (l *leg) dropHeld(total *int) int {
	n := l.heldDatagrams
	for _, b := range l.held {
		*total -= len(b.Buf)
	}
	l.held, l.heldDatagrams = nil, 0
	return n
}

// takeHeld gives what the leg holds, unless it is too old. Server.mu is held.
func (s *Server) takeHeld(l *leg, now time.Time) []dgram.Burst {
	held, old := l.held, now.Sub(l.heldSince) >= holdFor
	n := l.dropHeld(&s.heldBytes)
	if old {
		s.count.drop(heldTooLong, n)
		return nil
	}
	return held
}

// mayHoldBind says whether one of the datagrams has the size of a bind. GRO
// joins datagrams of one size and perhaps a shorter last one, so the answer
// costs no look at the bytes.
func mayHoldBind(b dgram.Burst) bool {
	return b.Size == proto.BindSize || b.Size > 0 && len(b.Buf)%b.Size == proto.BindSize
}

// sift forwards a bound leg's burst but for its binds. On a raw leg payload may
// look like a bind: only what names this leg and is authentic is one.
func (s *Server) sift(l *leg, from source, b dgram.Burst, now time.Time) {
	run := b
	start, end := 0, 0 // of the run of datagrams to forward, in bytes
	for d := range b.All() {
		bind, err := proto.ParseBind(d)
		isBind := err == nil && !bind.Bound && bind.Allocation == l.allocation.id && bind.Leg == l.index &&
			seal.CheckBind(l.key[:], bind)
		if isBind {
			if start < end {
				run.Buf = b.Buf[start:end]
				s.forward(l, run, now)
			}
			start = end + len(d)
			s.bind(l, from, bind.Counter, now)
		}
		end += len(d)
	}
	if start < end {
		run.Buf = b.Buf[start:end]
		s.forward(l, run, now)
	}
}

// bindStranger takes a bind from an address that is no leg's, and says whether
// it is one now. An unknown allocation is not answered: its keys are unknown
// too, so an answer could be neither proof nor proven, and strangers could aim
// it at others. While an ended allocation is remembered, its legs hear Gone.
func (s *Server) bindStranger(from source, d []byte) bool {
	b, err := proto.ParseBind(d)
	if err != nil || b.Leg > 1 {
		s.count.drop(unknownSource, 1)
		return false
	}
	s.mu.Lock()
	a := s.allocations[b.Allocation]
	s.mu.Unlock()
	if a == nil {
		s.count.drop(unknownAllocation, 1)
		return false
	}
	l := &a.legs[b.Leg]
	if !seal.CheckBind(l.key[:], b) {
		s.count.drop(badMAC, 1)
		return false
	}
	return s.bind(l, from, b.Counter, time.Now())
}

// answer is a Bound to send, or datagrams that were held.
type answer struct {
	to    source
	bound proto.Bind
	key   *[32]byte
	held  []dgram.Burst
}

// bind takes an authentic bind of the leg and answers it, and says whether the
// leg is bound there.
func (s *Server) bind(l *leg, from source, counter uint64, now time.Time) bool {
	s.mu.Lock()
	was := l.at.Load()
	answers, why, ok := s.apply(l, from, counter, now)
	s.mu.Unlock()
	if !ok {
		s.count.drop(why, 1)
	} else if was == nil {
		changed(nil).with(l.allocation).tell()
	}
	for _, a := range answers {
		s.send(a)
		for _, b := range a.held {
			s.write(a.to, b, b.Len())
		}
	}
	return ok && len(answers) > 0 && !answers[0].bound.Gone
}

// send sends a bound, but not what was held.
func (s *Server) send(a answer) {
	a.bound.MAC = seal.BindMAC(a.key[:], a.bound)
	if a.to.conn.Write(dgram.One(a.to.addr, proto.AppendBind(nil, a.bound))) != nil {
		s.count.drop(writeError, 1)
	}
}

// apply changes the table for an authentic bind and gives what to answer.
// Server.mu is held.
func (s *Server) apply(l *leg, from source, counter uint64, now time.Time) ([]answer, reason, bool) {
	if counter <= l.counter {
		return nil, oldCounter, false
	}
	if l.allocation.gone() {
		l.counter = counter
		gone := l.reply(from)
		gone.bound.Gone = true
		return []answer{gone}, 0, true
	}
	old := l.at.Load()
	if old == nil || *old != from {
		if !s.sources.add(from, l) {
			return nil, addressTaken, false
		}
		if old != nil {
			s.sources.remove(*old)
			s.count.moves.Add(1)
		}
		l.at.Store(&from)
	}
	l.counter, l.bound, l.allocation.touched = counter, now, now
	s.count.binds.Add(1)

	answers := []answer{l.reply(from)}
	other := l.other()
	to := other.at.Load()
	if to == nil {
		return answers, 0, true
	}
	answers[0].bound.Both = true
	answers[0].held = s.takeHeld(other, now)
	if old == nil && l.allocation.public == nil { // the other leg waits to hear of it
		push := other.reply(*to)
		push.bound.Both = true
		push.held = s.takeHeld(l, now)
		answers = append(answers, push)
	}
	return answers, 0, true
}

// reply is the answer to the leg's last bind.
func (l *leg) reply(to source) answer {
	return answer{to: to, key: &l.key, bound: proto.Bind{
		Bound: true, Allocation: l.allocation.id, Leg: l.index, Counter: l.counter, Observed: to.addr,
	}}
}
