package dgram

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/natlab/bubble"
)

var farAway = netip.MustParseAddrPort("198.51.100.7:4000")

// streamPair is two ends of a connection over loopback, as Streams.
func streamPair(t testing.TB) (a, b *Stream) {
	t.Helper()
	x, y := tcpPair(t)
	a, b = NewStream(x, farAway, StreamOptions{}), NewStream(y, farAway, StreamOptions{})
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func tcpPair(t testing.TB) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	b, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

// gather reads until n datagrams came.
func gather(t testing.TB, s *Stream, n int) (all [][]byte) {
	t.Helper()
	var arena Arena
	defer arena.Release()
	for len(all) < n {
		bursts, err := s.Read(&arena)
		if err != nil {
			t.Fatalf("after %d datagrams: %v (%v)", len(all), err, s.Err())
		}
		for _, b := range bursts {
			if b.Addr != farAway {
				t.Fatalf("a burst of %v", b.Addr)
			}
			for d := range b.All() {
				all = append(all, bytes.Clone(d))
			}
		}
	}
	return all
}

func TestStreamCarriesDatagramsOfAllSizes(t *testing.T) {
	a, b := streamPair(t)
	var want [][]byte
	go func() {
		for _, size := range []int{1, 2, 100, 1400, 1400, 1400, 500, 600, 9000, 65507, 1, 511, 510, 4096} {
			_ = a.Write(One(farAway, bytes.Repeat([]byte{byte(size)}, size)))
		}
		_ = a.Write(Burst{Buf: bytes.Repeat([]byte("abcdefg"), 9)[:60], Size: 7})
	}()
	for _, size := range []int{1, 2, 100, 1400, 1400, 1400, 500, 600, 9000, 65507, 1, 511, 510, 4096} {
		want = append(want, bytes.Repeat([]byte{byte(size)}, size))
	}
	for range 8 {
		want = append(want, []byte("abcdefg"))
	}
	want = append(want, []byte("abcd"))
	got := gather(t, b, len(want))
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Fatalf("datagram %d is of %d bytes, want %d", i, len(got[i]), len(want[i]))
		}
	}
	if n := a.Dropped(); n != 0 {
		t.Errorf("%d dropped", n)
	}
}

// onlyConn hides what the kernel's connection can do more, as a stream of a
// multiplexer's has no more either.
type onlyConn struct{ net.Conn }

func TestStreamOnAnyConn(t *testing.T) {
	x, y := tcpPair(t)
	a, b := NewStream(onlyConn{x}, farAway, StreamOptions{}), NewStream(onlyConn{y}, farAway, StreamOptions{})
	defer a.Close()
	defer b.Close()
	const n = 400
	go func() {
		for i := range n {
			_ = a.Write(One(farAway, bytes.Repeat([]byte{byte(i)}, 1+7*i)))
		}
	}()
	for i, d := range gather(t, b, n) {
		if len(d) != 1+7*i || d[0] != byte(i) {
			t.Fatalf("datagram %d is of %d bytes and begins with %d", i, len(d), d[0])
		}
	}
}

func TestStreamPutsEqualSizesIntoOneBurst(t *testing.T) {
	a, b := streamPair(t)
	if err := a.Write(Burst{Buf: make([]byte, 40*1200-100), Size: 1200}); err != nil {
		t.Fatal(err)
	}
	var arena Arena
	total, bursts := 0, 0
	for total < 40 {
		got, err := b.Read(&arena)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range got {
			total += x.Len()
			bursts++
		}
	}
	if bursts > 10 {
		t.Errorf("40 datagrams of one size came in %d bursts", bursts)
	}
}

// A queue on a stream that is stuck keeps the newest datagrams, and says how
// many went.
func TestStreamDropsTheOldest(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		x, y := net.Pipe() // takes nothing until it is read
		s := NewStream(x, farAway, StreamOptions{Queue: 10 * (100 + 2)})
		defer s.Close()
		number := func(i int) []byte { return binary.BigEndian.AppendUint32(make([]byte, 96, 100), uint32(i)) }
		for i := range 50 {
			if err := s.Write(One(farAway, number(i))); err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // the writer takes the first
		}
		r := NewStream(y, farAway, StreamOptions{})
		defer r.Close()
		got := gather(t, r, 11)
		var numbers []uint32
		for _, d := range got {
			numbers = append(numbers, binary.BigEndian.Uint32(d[96:]))
		}
		want := "[0 40 41 42 43 44 45 46 47 48 49]"
		if fmt.Sprint(numbers) != want || s.Dropped() != 39 {
			t.Errorf("got %v and %d dropped, want %s and 39", numbers, s.Dropped(), want)
		}
	})
}

// What is old goes when something newer waits, however little it is.
func TestStreamDropsWhatIsOld(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		x, y := net.Pipe()
		s := NewStream(x, farAway, StreamOptions{})
		defer s.Close()
		for i := range 40 {
			_ = s.Write(One(farAway, []byte{byte(i)}))
			time.Sleep(20 * time.Millisecond)
		}
		r := NewStream(y, farAway, StreamOptions{})
		defer r.Close()
		got := gather(t, r, 2)
		if got[0][0] != 0 || got[1][0] < 38 {
			t.Errorf("the first after the one that was under way is number %d of 40", got[1][0])
		}
		if s.Dropped() < 32 {
			t.Errorf("%d dropped", s.Dropped())
		}
	})
}

func TestStreamEnds(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(s *Stream, peer net.Conn)
		want error
	}{
		"by its owner":                {func(s *Stream, _ net.Conn) { _ = s.Close() }, net.ErrClosed},
		"by the peer":                 {func(_ *Stream, p net.Conn) { _ = p.Close() }, io.EOF},
		"by a length of none":         {func(_ *Stream, p net.Conn) { _, _ = p.Write([]byte{0, 1, 'x', 0, 0, 5}) }, errFrame},
		"by a length no datagram has": {func(_ *Stream, p net.Conn) { _, _ = p.Write([]byte{0xff, 0xf0}) }, errFrame},
	} {
		t.Run(name, func(t *testing.T) {
			x, y := tcpPair(t)
			defer y.Close()
			s := NewStream(x, farAway, StreamOptions{})
			c.end(s, y)
			var arena Arena
			_, err := s.Read(&arena)
			for err == nil {
				_, err = s.Read(&arena)
			}
			<-s.Done()
			if !errors.Is(err, net.ErrClosed) || !errors.Is(s.Err(), c.want) {
				t.Errorf("Read: %v, Err: %v; want %v", err, s.Err(), c.want)
			}
			if err := s.Write(One(farAway, []byte{1})); !errors.Is(err, net.ErrClosed) {
				t.Errorf("Write: %v", err)
			}
			if want := uint64(0); errors.Is(c.want, errFrame) != (s.Malformed() > want) {
				t.Errorf("%d malformed", s.Malformed())
			}
		})
	}
}

func TestStreamRefusesWhatDoesNotFit(t *testing.T) {
	a, _ := streamPair(t)
	if err := a.Write(One(farAway, make([]byte, MaxBytes+1))); !IsTooLarge(err) {
		t.Errorf("too large: %v", err)
	}
	if err := a.Write(One(farAway, nil)); err == nil {
		t.Error("an empty datagram was taken")
	}
	if n := a.Stats().TooLarge; n != 2 {
		t.Errorf("%d counted", n)
	}
}

func TestStreamReadDeadline(t *testing.T) {
	for _, wrap := range []func(net.Conn) net.Conn{func(c net.Conn) net.Conn { return c }, func(c net.Conn) net.Conn { return onlyConn{c} }} {
		x, y := tcpPair(t)
		s := NewStream(wrap(x), farAway, StreamOptions{})
		_, _ = y.Write([]byte{0, 3, 'a'})
		var arena Arena
		_ = s.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := s.Read(&arena); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		_ = s.SetReadDeadline(time.Time{})
		_, _ = y.Write([]byte{'b', 'c'})
		if got := gather(t, s, 1); string(got[0]) != "abc" {
			t.Errorf("after the deadline: %q", got[0])
		}
		_, _ = s.Close(), y.Close()
	}
}

func TestStreamLocalAddr(t *testing.T) {
	a, _ := streamPair(t)
	if at := a.LocalAddr(); at.Addr().String() != "127.0.0.1" || at.Port() == 0 {
		t.Errorf("of TCP: %v", at)
	}
	x, _ := net.Pipe()
	if at := NewStream(x, farAway, StreamOptions{}).LocalAddr(); at.String() != "0.0.0.0:0" {
		t.Errorf("of a pipe: %v", at)
	}
}

// FuzzStream feeds a reader bytes in pieces: what comes out is what stands in
// them, and nonsense ends the stream.
func FuzzStream(f *testing.F) {
	f.Add([]byte{0, 1, 7, 0, 2, 8, 8, 0, 0}, uint8(3))
	f.Add([]byte{0, 3, 1, 2, 3, 0, 3, 1, 2, 3, 0, 2, 9, 9, 0xff, 0xff}, uint8(1))
	f.Add(append([]byte{8, 0}, make([]byte, 3000)...), uint8(200))
	f.Fuzz(func(t *testing.T, wire []byte, step uint8) {
		var want [][]byte
		bad := false
		for rest := wire; len(rest) >= 2; {
			n := int(binary.BigEndian.Uint16(rest))
			if bad = n == 0 || n > MaxBytes; bad || len(rest) < 2+n {
				break
			}
			want = append(want, rest[2:2+n])
			rest = rest[2+n:]
		}
		s := NewStream(&pieceMeal{rest: wire, step: 1 + int(step)*9}, farAway, StreamOptions{})
		var got [][]byte
		var arena Arena
		defer arena.Release()
		for {
			bursts, err := s.Read(&arena)
			if err != nil {
				break
			}
			for _, b := range bursts {
				if b.Len() > MaxSegments || len(b.Buf) > MaxBytes {
					t.Fatalf("a burst of %d datagrams, %d bytes", b.Len(), len(b.Buf))
				}
				for d := range b.All() {
					got = append(got, bytes.Clone(d))
				}
			}
		}
		if len(got) != len(want) || !bytes.Equal(bytes.Join(got, nil), bytes.Join(want, nil)) {
			t.Fatalf("%d datagrams, want %d", len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("datagram %d differs", i)
			}
		}
		if bad != (s.Malformed() == 1) {
			t.Fatalf("malformed: %v", s.Err())
		}
	})
}

// pieceMeal is a connection that gives its bytes in steps.
type pieceMeal struct {
	net.Conn
	rest []byte
	step int
}

func (c *pieceMeal) Read(b []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), c.step)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (*pieceMeal) LocalAddr() net.Addr { return nil }
func (*pieceMeal) Close() error        { return nil }
