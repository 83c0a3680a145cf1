package faketcp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/dgram"
)

// Shows S0-01, S0-02 and S0-03: with 5 % loss and a round trip of 700 ms each
// datagram that is not lost arrives whole, once, and after exactly the time of
// the way: none waits for another, and nothing is kept to be sent again.
func TestLossDelaysNobody(t *testing.T) {
	virtual(t, func(t *testing.T) {
		l := &line{delay: 350 * time.Millisecond, loss: 0.05, rng: rand.New(rand.NewPCG(3, 3))}
		s := natted(t, false, l, Options{})
		s.open(t, 0, 20*time.Second)
		l.lost = 0
		sent := make(map[string]time.Time)
		const n = 2000
		for i := range n {
			body := fmt.Sprintf("%0*d", 100+i%7*150, i)
			sent[body] = time.Now()
			s.left.write(t, s.toRight, body)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		came := s.right.arrivals()
		for _, a := range came {
			at, ok := sent[a.body]
			if !ok {
				t.Fatalf("%q was never sent, or came twice", a.body)
			}
			delete(sent, a.body)
			if d := a.at.Sub(at); d != l.delay {
				t.Fatalf("%d bytes took %v", len(a.body), d)
			}
		}
		if len(came) < n*92/100 || len(came) > n*98/100 {
			t.Errorf("%d of %d arrived", len(came), n)
		}
		if s.invalid() != 0 {
			t.Errorf("%d INVALID", s.invalid())
		}
	})
}

// Shows S0-26: a handshake over a round trip of 2 s, with loss, is neither
// given up nor are SYNs poured out meanwhile.
func TestOpensOverLongRoundTrip(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWire(leftAddr, rightAddr, &line{delay: time.Second, loss: 0.2, rng: rand.New(rand.NewPCG(5, 5))})
		left, _ := w.hosts(t, Options{})
		var syns atomic.Int64
		w.trace = func(_ course, p *parcel) {
			if p.has(flagSYN) {
				syns.Add(1)
			}
		}
		if err := left.OpenRTT(t.Context(), rightAddr, 2*time.Second); err != nil {
			t.Fatal(err)
		}
		if syns.Load() > 20 {
			t.Errorf("%d SYNs", syns.Load())
		}
	})
}

// Shows S0-13: what is written during the handshake arrives, in order, and
// before what is written after it.
func TestFirstDatagramsAreHeld(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWire(leftAddr, rightAddr, &line{delay: 30 * time.Millisecond})
		left, right := w.hosts(t, Options{})
		if err := left.Write(dgram.One(rightAddr, []byte("x"))); !errors.Is(err, ErrNotOpen) {
			t.Fatalf("write before Open: %v", err)
		}
		done := make(chan error)
		go func() { done <- left.Open(t.Context(), rightAddr) }()
		synctest.Wait()
		for i := range 20 { // four more than are held
			left.write(t, rightAddr, fmt.Sprint(i))
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		left.write(t, rightAddr, "last")
		time.Sleep(time.Second)
		var got []string
		for _, a := range right.arrivals() {
			got = append(got, a.body)
		}
		if want := "4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 last"; strings.Join(got, " ") != want {
			t.Errorf("got %v", got)
		}
		if c := left.Counts(); c.Held != 4 || c.NotOpen != 1 {
			t.Errorf("%+v", c)
		}
	})
}

// One-way traffic of far more than a window of 64 KiB crosses connection
// tracking: the window scale is in both SYNs and ACKs flow. A sender that is
// not acknowledged at all would be cut off after 130 KB without the scale.
func TestOneWayTrafficStaysInWindow(t *testing.T) {
	virtual(t, func(t *testing.T) {
		s := natted(t, false, &line{delay: 10 * time.Millisecond}, Options{})
		s.open(t, 0, 5*time.Second)
		var acks atomic.Int64
		s.trace = func(d course, p *parcel) {
			if d == leftwards && len(p.payload) == 0 {
				acks.Add(1)
			}
		}
		burst := dgram.Burst{Addr: s.toRight, Buf: make([]byte, 16*1300), Size: 1300}
		for range 500 {
			if err := s.left.Write(burst); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		if n := len(s.right.arrivals()); n != 8000 || s.invalid() != 0 {
			t.Errorf("%d of 8000 arrived, %d INVALID", n, s.invalid())
		}
		if n := acks.Swap(0); n < 8000/ackEvery || n > 8000/16 {
			t.Errorf("%d ACKs", n)
		}
		for range 50 { // slow: by time
			s.left.write(t, s.toRight, "slow")
			time.Sleep(200 * time.Millisecond)
		}
		if n := acks.Load(); n < 9 || n > 25 {
			t.Errorf("%d ACKs in 10 s of slow one-way traffic", n)
		}
	})
}

// A RST or FIN in the middle of a flow that is well changes nothing. Where data
// stops as well, the handshake is made again, and a dead flow is forgotten.
func TestForgedEndIsIgnored(t *testing.T) {
	virtual(t, func(t *testing.T) {
		cut := false
		w := newWire(leftAddr, rightAddr, sieve(func(course, *parcel) bool { return cut }), &line{delay: 10 * time.Millisecond})
		left, right := w.hosts(t, Options{})
		if err := left.Open(t.Context(), rightAddr); err != nil {
			t.Fatal(err)
		}
		left.write(t, rightAddr, "hello")
		time.Sleep(50 * time.Millisecond)
		forge := func(flags uint8) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.walk(-1, leftwards, &parcel{segment: segment{local: rightAddr, remote: leftAddr, seq: 7, flags: flags}})
			w.walk(2, rightwards, &parcel{segment: segment{local: leftAddr, remote: rightAddr, seq: 7, flags: flags}})
		}
		for range 50 {
			forge(flagRST)
			forge(flagFIN | flagACK)
			forge(flagSYN) // with another number
			forge(flagSYN | flagACK)
			left.write(t, rightAddr, "there")
			right.write(t, leftAddr, "back")
			time.Sleep(20 * time.Millisecond)
		}
		if l, r := len(left.arrivals()), len(right.arrivals()); l != 50 || r != 51 {
			t.Errorf("%d and %d arrived", l, r)
		}
		if c := left.Counts(); c.Reset != 50 || c.Fin != 50 || c.Resyn != 50 || c.BadAck != 50 {
			t.Errorf("%+v", c)
		}
		cut = true
		for range 20 {
			_ = left.Write(dgram.One(rightAddr, []byte("into the void")))
			forge(flagRST)
			time.Sleep(time.Second)
		}
		if left.Flows() != 0 {
			t.Errorf("a flow that was reset and is silent is still there: %+v", left.Counts())
		}
	})
}

// A coordinator that was started again has no state: the agent's data makes
// none, but its SYN does as soon as it misses answers; so does an Open.
func TestPeerThatForgotIsFoundAgain(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWire(leftAddr, rightAddr, &line{delay: 10 * time.Millisecond})
		left, right := w.hosts(t, Options{})
		if err := left.Open(t.Context(), rightAddr); err != nil {
			t.Fatal(err)
		}
		left.write(t, rightAddr, "one")
		time.Sleep(time.Second)
		right.Close()
		w.mu.Lock()
		w.right = &memDevice{wire: w, addr: rightAddr, out: leftwards, ready: make(chan struct{}, 1), mtu: 1500}
		w.mu.Unlock()
		again := newHost(t, w.right, Options{})
		for range 80 {
			left.write(t, rightAddr, "two")
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(again.arrivals()); n < 30 {
			t.Errorf("%d arrived; %+v; %+v", n, left.Counts(), again.Counts())
		}
		again.write(t, leftAddr, "back")
		time.Sleep(100 * time.Millisecond)
		if len(left.arrivals()) != 1 {
			t.Error("nothing came back")
		}
	})
}

// Closing ends what waits, as dgram.Conn says; and so does a deadline.
func TestCloseAndDeadline(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWire(leftAddr, rightAddr, sieve(func(course, *parcel) bool { return true }))
		c := newConn(w.left, Options{}, false)
		c.SetReadDeadline(time.Now().Add(time.Second))
		var a dgram.Arena
		if _, err := c.Read(&a); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		c.SetReadDeadline(time.Time{})
		opened := make(chan error, 1)
		read := make(chan error, 1)
		go func() { opened <- c.Open(context.Background(), rightAddr) }()
		go func() {
			_, err := c.Read(&a)
			read <- err
		}()
		time.Sleep(time.Second)
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if err := <-opened; !errors.Is(err, net.ErrClosed) {
			t.Errorf("open: %v", err)
		}
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		if err := c.Write(dgram.One(rightAddr, []byte("x"))); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("second close: %v", err)
		}
	})
}

// Shows S0-14: the cost is told, and what is too large for the interface is
// said to be.
func TestExtraAndTooLarge(t *testing.T) {
	virtual(t, func(t *testing.T) {
		w := newWire(leftAddr, rightAddr, &line{delay: time.Millisecond})
		left, _ := w.hosts(t, Options{})
		if err := left.Open(t.Context(), rightAddr); err != nil {
			t.Fatal(err)
		}
		if left.Extra(rightAddr) != 12 {
			t.Errorf("extra %d", left.Extra(rightAddr))
		}
		left.write(t, rightAddr, strings.Repeat("x", 1460))
		if err := left.Write(dgram.One(rightAddr, make([]byte, 1461))); !dgram.IsTooLarge(err) {
			t.Errorf("1461 bytes: %v", err)
		}
		left.write(t, rightAddr, "")
		if left.Counts().Empty != 1 {
			t.Error("an empty datagram is not counted")
		}
	})
}
