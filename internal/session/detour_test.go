package session

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// besides is a detour that says what the test wants it to.
type besides struct {
	mu     sync.Mutex
	way    *Way
	tx, rx Passed
}

func (b *besides) Follow(w *Way) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.way = w
}

func (b *besides) Passed() (tx, rx Passed) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.tx, b.rx
}

func (b *besides) now() *Way {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.way
}

// carry has b's kernel carry datagrams of 100 bytes to the peer's, of which so
// many of ten arrive.
func (b *besides) carry(to *besides, n, arrive uint64) {
	b.mu.Lock()
	b.tx.Datagrams, b.tx.Bytes = b.tx.Datagrams+n, b.tx.Bytes+100*n
	b.mu.Unlock()
	time.AfterFunc(9*time.Millisecond, func() { // as long as the lab's links take, all but a moment
		to.mu.Lock()
		defer to.mu.Unlock()
		n = n * arrive / 10
		to.rx.Datagrams, to.rx.Bytes = to.rx.Datagrams+n, to.rx.Bytes+100*n
	})
}

// begun is a raw pair in use, so that data may go past both sessions.
func begun(t *testing.T, conns int) *pair {
	t.Helper()
	p := newPair(t, conns, true)
	p.try(t, 0)
	time.Sleep(time.Second)
	if w := p.a.beside.now(); w != nil {
		t.Fatalf("an idle path is given away: %v", w)
	}
	p.a.Send(0, dgram.One(netip.AddrPort{}, make([]byte, 100)))
	time.Sleep(2 * time.Second)
	for _, e := range []*end{p.a, p.b} {
		if w := e.beside.now(); w == nil || w.Conn != e.conns[0] || w.Size != 1472 {
			t.Fatalf("the path in use is given away as %v", w)
		}
	}
	return p
}

// What goes past the sessions keeps them in use, and counts in status and in what
// probes tell of loss.
func TestDetourCounts(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := begun(t, 1)
		for _, arrive := range []uint64{10, 8} {
			for range 1000 {
				p.a.beside.carry(&p.b.beside, 10, arrive)
				time.Sleep(10 * time.Millisecond)
			}
			got := p.a.Paths()[0]
			if loss := 1 - float64(arrive)/10; got.Loss < loss-0.1 || got.Loss > loss+0.1 {
				t.Errorf("%d of 10 arrive: loss %v", arrive, got.Loss)
			}
			if p.a.beside.now() == nil || p.b.beside.now() == nil {
				t.Error("data in the kernel does not keep its path in use")
			}
		}
		time.Sleep(3500 * time.Millisecond)
		a, b := p.a.Counts(), p.b.Counts()
		if a.TxDatagrams != 20_001 || a.TxBytes != 2_000_100 || b.RxDatagrams != 18_001 {
			t.Errorf("counted %d datagrams and %d bytes sent, %d received", a.TxDatagrams, a.TxBytes, b.RxDatagrams)
		}
		if p.a.beside.now() != nil || p.b.beside.now() != nil {
			t.Error("the path is idle, and still given away")
		}
	})
}

// A path in doubt gets nothing but what the session sends, at once; it is given
// away again when it is proven anew, and not while another kind is best.
func TestDetourEndsInDoubt(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		p := begun(t, 2)
		p.try(t, 1)
		stop := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(50 * time.Millisecond):
					p.a.Send(0, dgram.One(netip.AddrPort{}, make([]byte, 100)))
				}
			}
		})
		defer wait.Wait()
		defer close(stop)
		var mu sync.Mutex
		cut := true
		p.hosts[0].DropWhen(func(from, to netip.AddrPort, _ []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			return cut && to == p.addr(1, 0)
		})
		time.Sleep(DefaultTimers().Check + 150*time.Millisecond)
		if w := p.a.beside.now(); w != nil {
			t.Errorf("a path in doubt is given away: %v", w)
		}
		time.Sleep(3 * time.Second)
		if p.a.Best() != path.RelayUDP || p.a.beside.now() != nil {
			t.Errorf("over %v: %v is given away", p.a.Best(), p.a.beside.now())
		}
		mu.Lock()
		cut = false
		mu.Unlock()
		time.Sleep(2 * time.Second)
		if w := p.a.beside.now(); p.a.Best() != path.DirectUDP || w == nil {
			t.Errorf("a path that heals is not given away again: %v over %v", w, p.a.Best())
		}
		p.a.Close()
		time.Sleep(time.Millisecond)
		if p.a.beside.now() != nil {
			t.Error("a session that has ended gives its path away")
		}
	})
}
