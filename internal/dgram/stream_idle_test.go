package dgram

import (
	"errors"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/natlab/bubble"
)

// Ten thousand idle streams must hold next to nothing: after traffic each is
// back to the little that a read needs to wait with, and has no writer.
func TestIdleStreamHoldsNoBuffer(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		x, y := net.Pipe()
		a, b := NewStream(x, farAway, StreamOptions{}), NewStream(y, farAway, StreamOptions{})
		go func() {
			var arena Arena
			defer arena.Release()
			for {
				if _, err := b.Read(&arena); err != nil {
					return
				}
			}
		}()
		for range 20 {
			_ = a.Write(Burst{Addr: farAway, Buf: make([]byte, 40*1400), Size: 1400})
		}
		synctest.Wait()
		if n := cap(b.in.buf); n > pieceSizes[0] {
			t.Errorf("a reader that waits holds %d bytes", n)
		}
		if a.out.running || len(a.out.queue) > 0 || a.out.writing != nil {
			t.Errorf("an idle writer: running %v, %d chunks", a.out.running, len(a.out.queue))
		}
		_, _ = a.Close(), b.Close()
	})
}

func TestIdleKernelStreamHoldsNothing(t *testing.T) {
	a, b := streamPair(t)
	_ = a.Write(Burst{Addr: farAway, Buf: make([]byte, 40*1400), Size: 1400})
	gather(t, b, 40)
	var arena Arena
	_ = b.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := b.Read(&arena); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if b.in.buf != nil || arena.block != nil {
		t.Errorf("a reader that waited holds %d bytes, arena %v", cap(b.in.buf), arena.block != nil)
	}
}

// A partial datagram holds as much memory as it needs, not more.
func TestPartialDatagramHoldsLittle(t *testing.T) {
	x, y := tcpPair(t)
	defer y.Close()
	s := NewStream(x, farAway, StreamOptions{})
	defer s.Close()
	_, _ = y.Write(append([]byte{5, 0}, make([]byte, 100)...)) // 1,280 bytes announced
	var arena Arena
	_ = s.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if _, err := s.Read(&arena); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	if n := cap(s.in.buf); n != pieceSizes[1] {
		t.Errorf("holds %d bytes", n)
	}
}
