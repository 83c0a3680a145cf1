package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"rendezvous/proto"
)

// await waits for one message about an introduction.
func await(ctx context.Context, from <-chan *proto.ToAgent, d time.Duration) (*proto.ToAgent, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case m := <-from:
		return m, nil
	case <-timer.C:
		return nil, fmt.Errorf("no answer from the peer in %v; is it online?", d)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// answerBook matches the coordinator's later messages to introductions. A
// message may come before its introduction is expected; a few such wait.
type answerBook struct {
	mu       sync.Mutex
	expected map[uint64]chan *proto.ToAgent
	early    map[uint64]chan *proto.ToAgent
}

const maxEarly = 256

func (b *answerBook) expect(id uint64) <-chan *proto.ToAgent {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.early[id]
	delete(b.early, id)
	if c == nil {
		c = make(chan *proto.ToAgent, 2)
	}
	if b.expected == nil {
		b.expected = make(map[uint64]chan *proto.ToAgent)
	}
	b.expected[id] = c
	return c
}

func (b *answerBook) deliver(id uint64, m *proto.ToAgent) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.expected[id]
	if c == nil {
		c = b.early[id]
	}
	if c == nil {
		if b.early == nil || len(b.early) >= maxEarly {
			b.early = make(map[uint64]chan *proto.ToAgent)
		}
		c = make(chan *proto.ToAgent, 2)
		b.early[id] = c
	}
	select {
	case c <- m:
	default:
	}
}

func (b *answerBook) forget(id uint64) {
	b.mu.Lock()
	delete(b.expected, id)
	b.mu.Unlock()
}
