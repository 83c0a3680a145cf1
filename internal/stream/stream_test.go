package stream

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// pair is two ends that carry connections; the service's end of each accepted
// one is in services.
type pair struct {
	near, far *Conns
	services  chan *duplex
	size      int // of local connections
}

func newPair(t testing.TB, adjust func(near, far *Config)) *pair {
	p := &pair{services: make(chan *duplex, 1000), size: 64 << 10}
	near, far := Config{Instance: 1}, Config{Instance: 2}
	far.Accept = func(context.Context, Request) (net.Conn, error) {
		local, service := newDuplex(p.size)
		p.services <- service
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

func want(t testing.TB, from *duplex, b []byte, what string) {
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
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, nil)
		p.use(32<<10, 0)
		up, down := noise(1, 3_000_000), noise(2, 5_000_000)
		client, ended := p.dial(Request{Service: "web"})
		service := <-p.services
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
		for who, c := range map[string]*Conns{"near": p.near, "far": p.far} {
			if len(c.conns) != 0 || c.retained.Load() != 0 || c.windows.Load() != 0 {
				t.Errorf("%s keeps %d connections, %d bytes, %d of windows", who, len(c.conns), c.retained.Load(), c.windows.Load())
			}
		}
		p.close()
	})
}
