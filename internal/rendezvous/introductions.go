package rendezvous

import (
	"crypto/rand"
	"encoding/binary"
	"sync"
	"time"

	"rendezvous/proto"
)

// answerWithin is how long an offered agent may take to answer. A live one
// answers in a round trip; its handshake takes a millisecond.
const answerWithin = 10 * time.Second

// introduction waits for the offered agent's answer.
type introduction struct {
	id       uint64
	from, to Key
	fresh    bool
	made     time.Time
}

// introductions are those that wait. It is a table: it sends nothing.
type introductions struct {
	limit int

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]introduction
	counts  IntroductionCounts
}

// IntroductionCounts are totals since the coordinator started.
type IntroductionCounts struct {
	Made     uint64 `json:"made"`
	Answered uint64 `json:"answered"`
	Declined uint64 `json:"declined"` // by the offered agent
	Expired  uint64 `json:"expired"`  // not answered in time, or the agent left
	Refused  uint64 `json:"refused"`  // no such peer, offline, limited
	Waiting  int    `json:"waiting"`  // now
}

func newIntroductions(limit int) *introductions {
	// Numbers begin anywhere, so that an answer to an introduction from before
	// a restart meets none of today's.
	var b [8]byte
	rand.Read(b[:])
	return &introductions{
		limit:   limit,
		next:    binary.BigEndian.Uint64(b[:]) >> 16 << 8,
		waiting: map[uint64]introduction{},
	}
}

// begin notes an introduction and numbers it.
func (t *introductions) begin(now time.Time, from, to Key, fresh bool) (introduction, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.waiting) >= t.limit {
		return introduction{}, refusef(proto.Code_CODE_LIMITED, "the coordinator has %d introductions that wait for an answer, its limit; try again in some seconds", t.limit)
	}
	t.next++
	in := introduction{id: t.next, from: from, to: to, fresh: fresh, made: now}
	t.waiting[in.id] = in
	t.counts.Made++
	return in, nil
}

// answer ends the introduction that the offered agent answers; false when
// there is none that it may answer (any more).
func (t *introductions) answer(id uint64, by Key, declined bool) (introduction, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in, ok := t.waiting[id]
	if !ok || in.to != by {
		return introduction{}, false
	}
	delete(t.waiting, id)
	if declined {
		t.counts.Declined++
	} else {
		t.counts.Answered++
	}
	return in, true
}

// expire ends what was not answered in time.
func (t *introductions) expire(now time.Time) []introduction {
	return t.drop(func(in introduction) bool { return now.Sub(in.made) >= answerWithin })
}

// left ends what an agent that went away can no longer answer.
func (t *introductions) left(k Key) []introduction {
	return t.drop(func(in introduction) bool { return in.to == k })
}

func (t *introductions) drop(gone func(introduction) bool) (dropped []introduction) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, in := range t.waiting {
		if gone(in) {
			delete(t.waiting, id)
			t.counts.Expired++
			dropped = append(dropped, in)
		}
	}
	return dropped
}

func (t *introductions) refuse() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.counts.Refused++
}

func (t *introductions) stats() IntroductionCounts {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts
	c.Waiting = len(t.waiting)
	return c
}
