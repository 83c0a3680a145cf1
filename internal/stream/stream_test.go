package stream

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/natlab/bubble"
)

// pair is two ends that carry connections.
type pair struct {
	near, far *Conns
	size      int // of local connections

	mu       sync.Mutex
	services map[string]chan *duplex // the far end of each accepted connection, by the service's name
}

func (p *pair) service(called string) chan *duplex {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.services[called] == nil {
		p.services[called] = make(chan *duplex, 100)
	}
	return p.services[called]
}

func newPair(t testing.TB, adjust func(near, far *Config)) *pair {
	p := &pair{services: make(map[string]chan *duplex), size: 64 << 10}
	near, far := Config{Instance: 1}, Config{Instance: 2}
	far.Accept = func(_ context.Context, r Request) (net.Conn, error) {
		local, service := newDuplex(p.size)
		p.service(r.Service) <- service
		return local, nil
	}
	if adjust != nil {
		adjust(&near, &far)
	}
	p.near, p.far = New(near), New(far)
	t.Cleanup(p.close)
	return p
}

func (p *pair) close() {
	p.near.Close()
	p.far.Close()
}

func (p *pair) use(size, life int) (a, b *fakeCarrier) {
	a, b = newCarriers(size, life)
	p.far.Use(b)
	p.near.Use(a)
	return a, b
}

// empty checks that nothing is left of any connection.
func (p *pair) empty(t testing.TB) {
	t.Helper()
	for who, o := range map[string]*Conns{"near": p.near, "far": p.far} {
		o.mu.Lock()
		n := len(o.conns)
		o.mu.Unlock()
		if n != 0 || o.retained.Load() != 0 || o.windows.Load() != 0 {
			t.Errorf("%s keeps %d connections, %d bytes, %d of windows", who, n, o.retained.Load(), o.windows.Load())
			p.dump(t)
		}
	}
}

// dump tells of all connections.
func (p *pair) dump(t testing.TB) {
	for who, o := range map[string]*Conns{"near": p.near, "far": p.far} {
		o.mu.Lock()
		for n, c := range o.conns {
			c.mu.Lock()
			t.Logf("%s %v: state %d, parted %v, attempt %d, in %+v, out %+v", who, n, c.state, c.parted, c.attempt, c.in, &c.out)
			if c.current != nil {
				t.Logf("... on %+v, of a carrier %+v", c.current, c.current.link)
			}
			c.mu.Unlock()
		}
		o.mu.Unlock()
	}
}

func sendTCP(t testing.TB, to *net.TCPConn, b []byte) {
	if _, err := to.Write(b); err != nil {
		t.Errorf("write: %v", err)
	}
	_ = to.CloseWrite()
}

func wantTCP(t testing.TB, from *net.TCPConn, b []byte) {
	got, err := io.ReadAll(from)
	if err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes that differ from the %d sent: %v", len(got), len(b), err)
	}
}

// dial carries a new client, whose own end it returns.
func (p *pair) dial(r Request) (client *duplex, ended chan error) {
	client, local := newDuplex(p.size)
	ended = make(chan error, 1)
	go func() { ended <- p.near.Carry(context.Background(), local, r) }()
	return client, ended
}

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	_, _ = r.Read(b)
	return b
}

// send writes b and ends the direction.
func send(t testing.TB, to *duplex, b []byte) {
	if _, err := to.Write(b); err != nil {
		t.Errorf("write: %v", err)
	}
	_ = to.CloseWrite()
}

func want(t testing.TB, from io.Reader, b []byte, what string) {
	t.Helper()
	got, err := io.ReadAll(from)
	if err != nil {
		t.Errorf("%s: %v after %d bytes", what, err, len(got))
	}
	if !bytes.Equal(got, b) {
		t.Errorf("%s: %d bytes that differ from the %d sent", what, len(got), len(b))
	}
}

func TestBothWays(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.use(32<<10, 0)
		up, down := noise(1, 3_000_000), noise(2, 5_000_000)
		client, ended := p.dial(Request{Service: "web"})
		service := <-p.service("web")
		go send(t, client, up)
		go send(t, service, down)
		done := make(chan struct{})
		go func() { want(t, service, up, "service"); close(done) }()
		want(t, client, down, "client")
		<-done
		if err := <-ended; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		p.empty(t)
		p.close()
	})
}
