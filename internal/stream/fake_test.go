package stream

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// pipe is one direction of a stream or a connection in memory: so many bytes
// and no more may wait in it.
type pipe struct {
	mu       sync.Mutex
	changed  sync.Cond
	buf      []byte // a ring
	at, n    int
	eof      bool
	broken   error
	deadline time.Time
	budget   *budget // nil: it carries what comes
}

// budget is how many bytes a carrier lives for.
type budget struct {
	mu   sync.Mutex
	left int
	out  func() // it is used up
}

func (b *budget) spend(n int) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n >= b.left {
		n = b.left
		if b.left > 0 || b.out != nil {
			out := b.out
			b.out = nil
			if out != nil {
				go out()
			}
		}
	}
	b.left -= n
	return n
}

func newPipe(size int) *pipe {
	p := &pipe{buf: make([]byte, size)}
	p.changed.L = &p.mu
	return p
}

func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.n == 0 && !p.eof && p.broken == nil {
		if !p.deadline.IsZero() && !time.Now().Before(p.deadline) {
			return 0, os.ErrDeadlineExceeded
		}
		p.changed.Wait()
	}
	switch {
	case p.broken != nil:
		return 0, p.broken
	case p.n == 0:
		return 0, io.EOF
	}
	n := min(len(b), p.n, len(p.buf)-p.at)
	copy(b, p.buf[p.at:p.at+n])
	p.at, p.n = (p.at+n)%len(p.buf), p.n-n
	if p.n == 0 {
		p.at = 0
	}
	p.changed.Broadcast()
	return n, nil
}

func (p *pipe) Write(b []byte) (total int, err error) {
	if p.budget != nil {
		if n := p.budget.spend(len(b)); n < len(b) {
			b, err = b[:n], errCarrier
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		for p.n == len(p.buf) && p.broken == nil && !p.eof {
			p.changed.Wait()
		}
		if p.broken != nil {
			return total, p.broken
		}
		if p.eof {
			return total, io.ErrClosedPipe
		}
		end := (p.at + p.n) % len(p.buf)
		n := min(len(b), len(p.buf)-p.n, len(p.buf)-end)
		copy(p.buf[end:], b[:n])
		p.n += n
		total += n
		b = b[n:]
		p.changed.Broadcast()
	}
	return total, err
}

func (p *pipe) end(broken error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if broken != nil && p.broken == nil {
		p.broken = broken
	}
	p.eof = true
	p.changed.Broadcast()
}

func (p *pipe) setDeadline(t time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	p.changed.Broadcast()
	if !t.IsZero() {
		time.AfterFunc(time.Until(t), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.changed.Broadcast()
		})
	}
}

var (
	errCarrier = errors.New("the carrier died")
	errReset   = errors.New("connection reset")
)

// duplex is one end of two pipes: a stream of a carrier, or a local connection.
type duplex struct{ in, out *pipe }

func newDuplex(size int) (a, b *duplex) {
	x, y := newPipe(size), newPipe(size)
	return &duplex{x, y}, &duplex{y, x}
}

func (d *duplex) Read(b []byte) (int, error)  { return d.in.Read(b) }
func (d *duplex) Write(b []byte) (int, error) { return d.out.Write(b) }
func (d *duplex) CloseWrite() error           { d.out.end(nil); return nil }
func (d *duplex) Close() error {
	d.out.end(nil)
	d.in.end(net.ErrClosed)
	return nil
}

// SetLinger makes the other end see that it broke, as with TCP.
func (d *duplex) SetLinger(int) error {
	d.out.end(errReset)
	d.in.end(errReset)
	return nil
}
func (d *duplex) LocalAddr() net.Addr                { return &net.TCPAddr{} }
func (d *duplex) RemoteAddr() net.Addr               { return &net.TCPAddr{} }
func (d *duplex) SetDeadline(t time.Time) error      { return d.SetReadDeadline(t) }
func (d *duplex) SetReadDeadline(t time.Time) error  { d.in.setDeadline(t); return nil }
func (d *duplex) SetWriteDeadline(t time.Time) error { return nil }

// fakeCarrier is one end of a carrier in memory.
type fakeCarrier struct {
	far    *fakeCarrier
	accept chan *duplex
	shared *carrierState
}

type carrierState struct {
	mu      sync.Mutex
	size    int
	budget  *budget
	done    chan struct{}
	streams []*duplex
	dead    bool
}

// newCarriers makes the two ends of a carrier whose streams hold so many bytes.
// It dies after life bytes; 0 is never.
func newCarriers(size, life int) (a, b *fakeCarrier) {
	s := &carrierState{size: size, done: make(chan struct{})}
	a = &fakeCarrier{accept: make(chan *duplex, 1000), shared: s}
	b = &fakeCarrier{accept: make(chan *duplex, 1000), shared: s, far: a}
	a.far = b
	if life > 0 {
		s.budget = &budget{left: life, out: s.die}
	}
	return a, b
}

func (s *carrierState) die() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return
	}
	s.dead = true
	close(s.done)
	for _, d := range s.streams {
		d.in.end(errCarrier)
		d.out.end(errCarrier)
	}
}

func (c *fakeCarrier) Open(context.Context) (Stream, error) {
	s := c.shared
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return nil, errCarrier
	}
	near, far := newDuplex(s.size)
	near.out.budget, far.out.budget = s.budget, s.budget
	s.streams = append(s.streams, near)
	c.far.accept <- far
	return near, nil
}

func (c *fakeCarrier) Accept(ctx context.Context) (Stream, error) {
	select {
	case d := <-c.accept:
		return d, nil
	case <-c.shared.done:
		return nil, errCarrier
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *fakeCarrier) Done() <-chan struct{} { return c.shared.done }
func (c *fakeCarrier) Close() error          { c.shared.die(); return nil }
