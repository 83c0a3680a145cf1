package dgram

import (
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rendezvous/internal/natlab/bubble"
)

// overflown is a socket, and what makes its queue overflow.
func overflown(t *testing.T) (s *socket, flood func()) {
	conn, err := System(Options{ReadBuffer: 1 << 20}).ListenUDP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	from, err := System(Options{}).ListenUDP(netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = from.Close() })
	s = conn.(*socket)
	return s, func() {
		before := s.Stats().Overflow
		for range 100_000 {
			if err := from.Write(One(conn.LocalAddr(), make([]byte, 1200))); err != nil {
				t.Fatal(err)
			}
			if s.Stats().Overflow > before {
				return
			}
		}
		t.Fatal("the queue takes all that comes")
	}
}

func (s *socket) buffer(t *testing.T) (n int) {
	t.Helper()
	var err error
	if e := s.raw.Control(func(fd uintptr) { n, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	return n
}

// visits are what a busy reader does for a while: one in each millisecond, of 100
// messages each.
func (s *socket) visits(t *testing.T, q *Standing, d time.Duration) {
	for range d / time.Millisecond {
		time.Sleep(time.Millisecond)
		if err := s.raw.Control(func(fd uintptr) { q.Took(fd, 100, 100*1200) }); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *socket) emptied(t *testing.T, q *Standing) {
	if err := s.raw.Control(q.Emptied); err != nil {
		t.Fatal(err)
	}
}

func TestOverloadedQueueIsCutAndGrowsBack(t *testing.T) {
	s, flood := overflown(t)
	full := s.buffer(t)
	bubble.Test(t, func(t *testing.T) {
		q := KeepShort(1 << 20)
		flood()
		s.visits(t, &q, 300*time.Millisecond)
		if got := s.buffer(t); got != full {
			t.Fatalf("a queue that overflowed once, before it stood, was cut to %d bytes", got)
		}
		flood()
		s.visits(t, &q, 120*time.Millisecond)
		// 200 messages of 1900 bytes, as the kernel counts them, in two milliseconds.
		if got := s.buffer(t); got < 360_000 || got > 400_000 {
			t.Fatalf("the queue is %d bytes long, want what is taken in %v", got, standingTarget)
		}
		s.emptied(t, &q)
		flood()
		time.Sleep(2 * standingOver)
		s.emptied(t, &q)
		if got := s.buffer(t); got == full {
			t.Fatal("the queue has its room back though it still overflows")
		}
		time.Sleep(2 * standingOver)
		s.emptied(t, &q)
		if got := s.buffer(t); got != full {
			t.Errorf("after the overload the queue is %d bytes long, want %d", got, full)
		}
	})
}

// A reader that finds the queue empty now and then keeps up, whatever was lost
// while it was away.
func TestQueueOfReaderThatKeepsUpStaysLong(t *testing.T) {
	s, flood := overflown(t)
	full := s.buffer(t)
	bubble.Test(t, func(t *testing.T) {
		q := KeepShort(1 << 20)
		for range 10 {
			flood()
			s.visits(t, &q, standingFor-time.Millisecond)
			s.emptied(t, &q)
		}
		if got := s.buffer(t); got != full {
			t.Errorf("the queue is %d bytes long, want %d", got, full)
		}
	})
}
