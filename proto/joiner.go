package proto

import (
	"sync"
	"time"
)

// MaxParts bounds how many parts one datagram may have: 65,507 bytes over the
// smallest path we use make 58.
const MaxParts = 64

// Bounds of what waits for its missing parts, of one sender.
const (
	joinMost  = 32
	joinWait  = time.Second
	joinBytes = 65507 // the largest UDP payload (RFC 768 over IPv4)
)

// Joiner puts datagrams together again that came in parts. The zero Joiner is
// ready; it may be used from many goroutines at once.
type Joiner struct {
	mu      sync.Mutex
	waiting map[partKey]*partial
	lost    uint64
}

// Lost is how many datagrams were given up because parts of them did not come in
// time, or too many waited.
func (j *Joiner) Lost(now time.Time) uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.expire(now)
	return j.lost
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

// Accept takes one part and returns the whole datagram when it was the last
// one missing. It is false where the part is of no use: it is doubled, does not
// fit those before it, or makes the datagram too large.
func (j *Joiner) Accept(now time.Time, p Part) ([]byte, bool) {
	if p.Count > MaxParts {
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
	if w.size > joinBytes {
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
func (j *Joiner) makeRoom(now time.Time) {
	oldest := j.expire(now)
	if len(j.waiting) >= joinMost {
		delete(j.waiting, oldest)
		j.lost++
	}
}

// expire forgets what has waited too long, and gives the oldest of the others.
func (j *Joiner) expire(now time.Time) (oldest partKey) {
	var at time.Time
	for key, w := range j.waiting {
		if now.Sub(w.began) > joinWait {
			delete(j.waiting, key)
			j.lost++
			continue
		}
		if at.IsZero() || w.began.Before(at) {
			oldest, at = key, w.began
		}
	}
	return oldest
}
