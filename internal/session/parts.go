package session

import (
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

// maxParts bounds how many parts one datagram may have: 65,507 bytes over the
// smallest path we use make 58.
const maxParts = 64

// split sends one datagram that is larger than the path in parts of equal
// size, so that they leave as one burst.
func (s *Session) split(r *route, k *sending, flow uint16, d []byte) {
	room := r.mtu - proto.Overhead - proto.PartSize
	if len(d)+proto.Overhead <= r.mtu {
		s.sendSealed(r, k, flow, dgram.One(r.path.Addr, d))
		return
	}
	count := (len(d) + room - 1) / room
	if room <= 0 || count > maxParts {
		s.counts.drop(dropTooLarge, 1)
		return
	}
	id := s.join.next.Add(1)
	parts := make([]byte, 0, len(d)+count*proto.PartSize)
	for i := range count {
		parts = proto.AppendPart(parts, proto.Part{
			Flow: flow, ID: id, Index: uint8(i), Count: uint8(count), Payload: d[i*room : min((i+1)*room, len(d))],
		})
	}
	// One below the kernel's limit of a write at a time.
	const most = dgram.MaxBytes - dgram.MaxSegments*proto.Overhead
	stride := room + proto.PartSize
	for batch := most / stride * stride; len(parts) > 0; {
		n := min(batch, len(parts))
		s.sendSealed(r, k, proto.ControlFlow, dgram.Burst{Addr: r.path.Addr, Buf: parts[:n], Size: min(stride, n)})
		parts = parts[n:]
	}
}

// Bounds of what waits for its missing parts, per session.
const (
	joinMost = 32
	joinWait = time.Second
)

// joiner puts parts together again.
type joiner struct {
	next    atomic.Uint32 // the id of the next datagram we split
	mu      sync.Mutex
	waiting map[partKey]*partial
}

type partial struct {
	began time.Time
	parts [][]byte
	have  int
	size  int
}

type partKey struct {
	flow uint16
	id   uint32
}

// accept takes one part and returns the whole datagram when it was the last
// one missing.
func (j *joiner) accept(now time.Time, p proto.Part) ([]byte, bool) {
	if p.Count > maxParts {
		return nil, false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.waiting == nil {
		j.waiting = make(map[partKey]*partial)
	}
	key := partKey{p.Flow, p.ID}
	w := j.waiting[key]
	if w == nil {
		j.makeRoom(now)
		w = &partial{began: now, parts: make([][]byte, p.Count)}
		j.waiting[key] = w
	}
	if len(w.parts) != int(p.Count) || w.parts[p.Index] != nil {
		return nil, false
	}
	w.parts[p.Index] = append([]byte{}, p.Payload...)
	w.have++
	w.size += len(p.Payload)
	if w.size > dgram.MaxBytes {
		delete(j.waiting, key)
		return nil, false
	}
	if w.have < len(w.parts) {
		return nil, true
	}
	delete(j.waiting, key)
	whole := make([]byte, 0, w.size)
	for _, part := range w.parts {
		whole = append(whole, part...)
	}
	return whole, true
}

// makeRoom forgets what has waited too long, and the oldest when full.
func (j *joiner) makeRoom(now time.Time) {
	var oldest partKey
	var at time.Time
	for key, w := range j.waiting {
		if now.Sub(w.began) > joinWait {
			delete(j.waiting, key)
			continue
		}
		if at.IsZero() || w.began.Before(at) {
			oldest, at = key, w.began
		}
	}
	if len(j.waiting) >= joinMost {
		delete(j.waiting, oldest)
	}
}
