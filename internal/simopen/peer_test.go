package simopen

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// member is the least of an agent: it reads what is attached, answers pings
// that know the secret, and proves a path by such a ping.
type member struct {
	secret string

	mu       sync.Mutex
	answered map[dgram.Conn]chan struct{}
	attached int
	released int
}

func newMember(secret string) *member {
	return &member{secret: secret, answered: make(map[dgram.Conn]chan struct{})}
}

func (m *member) attach(conn dgram.Conn, far netip.AddrPort) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attached++
	answered := make(chan struct{})
	m.answered[conn] = answered
	go func() {
		heard := false
		_ = path.Read(conn, func(b dgram.Burst) {
			for d := range b.All() {
				switch {
				case bytes.Equal(d, []byte("ping "+m.secret)):
					_ = conn.Write(dgram.One(far, []byte("pong "+m.secret)))
				case bytes.Equal(d, []byte("pong "+m.secret)) && !heard:
					heard = true
					close(answered)
				}
			}
		})
	}()
}

func (m *member) release(conn dgram.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.released++
	_ = conn.Close()
}

func (m *member) try(ctx context.Context, p path.Path, _ path.Kind) (time.Duration, error) {
	m.mu.Lock()
	answered := m.answered[p.Conn]
	m.mu.Unlock()
	begun := time.Now()
	for ctx.Err() == nil {
		if err := p.Conn.Write(dgram.One(p.Addr, []byte("ping "+m.secret))); err != nil {
			return 0, err
		}
		timer := time.NewTimer(100 * time.Millisecond)
		select {
		case <-answered:
			timer.Stop()
			return time.Since(begun), nil
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
	return 0, ctx.Err()
}

// proven are the conns on which the peer answered and that are still open.
func (m *member) proven() (all []*dgram.Stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for conn, answered := range m.answered {
		s, ok := conn.(*dgram.Stream)
		select {
		case <-answered:
			if ok && s.Err() == nil {
				all = append(all, s)
			}
		default:
		}
	}
	return all
}

func (m *member) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for conn := range m.answered {
		_ = conn.Close()
	}
}
