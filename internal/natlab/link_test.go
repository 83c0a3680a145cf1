package natlab

import (
	"bytes"
	"encoding/binary"
	"math"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/dgram"
)

// stream is what a conn received over a while: each datagram's number, its
// time, and how many bursts carried them.
type stream struct {
	numbers []int
	times   []time.Time
	bursts  int
}

// collect reads numbered datagrams from c until it is closed.
func collect(t *testing.T, c dgram.Conn) *stream {
	s := &stream{}
	go func() {
		var a dgram.Arena
		defer a.Release()
		for {
			bursts, err := c.Read(&a)
			if err != nil {
				return
			}
			s.bursts += len(bursts)
			for _, b := range bursts {
				for d := range b.All() {
					s.numbers = append(s.numbers, int(binary.BigEndian.Uint32(d)))
					s.times = append(s.times, time.Now())
				}
			}
		}
	}()
	return s
}

// numbered is n datagrams of the given size, numbered from first.
func numbered(to netip.AddrPort, first, n, size int) dgram.Burst {
	b := dgram.Burst{Addr: to, Size: size}
	for i := range n {
		d := make([]byte, size)
		binary.BigEndian.PutUint32(d, uint32(first+i))
		b.Buf = append(b.Buf, d...)
	}
	return b
}

// late counts the datagrams that came after one with a higher number.
func (s *stream) late() int {
	n, highest := 0, -1
	for _, x := range s.numbers {
		if x < highest {
			n++
		}
		highest = max(highest, x)
	}
	return n
}

// pump sends n numbered datagrams, one each millisecond, from one public host
// to another over a link with the options, and returns what came.
func pump(t *testing.T, l *Lab, n int, options ...Option) *stream {
	t.Helper()
	a, b := l.Host("a", "203.0.113.1", options...), l.Host("b", "203.0.113.2")
	from, to := listen(t, a, "0.0.0.0:0"), listen(t, b, "203.0.113.2:1000")
	s := collect(t, to)
	for i := range n {
		if err := from.Write(numbered(to.LocalAddr(), i, 1, 100)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
	time.Sleep(10 * time.Second)
	synctest.Wait()
	return s
}

func TestLossIsOfTheShareAsked(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		const n, share = 3000, 0.2
		got := float64(n - len(pump(t, l, n, Loss(share)).numbers))
		if deviation := math.Abs(got-n*share) / math.Sqrt(n*share*(1-share)); deviation > 4 {
			t.Errorf("lost %v of %d, %.1f standard deviations from what was asked", got, n, deviation)
		}
		if l.Dropped(DropLoss) != int(got) {
			t.Errorf("counted %d lost, want %v", l.Dropped(DropLoss), got)
		}
	})
}

// Loss is per datagram even where they travel as bursts.
func TestLossWithinBursts(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		a, b := l.Host("a", "203.0.113.1", Loss(0.5)), l.Host("b", "203.0.113.2")
		from, to := listen(t, a, "0.0.0.0:0"), listen(t, b, "203.0.113.2:1000")
		s := collect(t, to)
		for i := range 100 {
			if err := from.Write(numbered(to.LocalAddr(), i*64, 64, 1000)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if got := len(s.numbers); got < 3000 || got > 3400 || s.late() != 0 || s.bursts != 100 {
			t.Errorf("of 6400 datagrams %d came in %d bursts, %d late; want about half in 100 bursts, in order", got, s.bursts, s.late())
		}
	})
}

func TestABurstArrivesWhole(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		router := l.NAT("router", "198.51.100.1", Home())
		from := listen(t, router.Host("home", "192.168.1.2"), "0.0.0.0:0")
		to := listen(t, l.Host("server", "203.0.113.2"), "203.0.113.2:1000")
		sent := numbered(to.LocalAddr(), 0, 40, 1400)
		sent.Buf = append(sent.Buf, "tail"...)
		if err := from.Write(sent); err != nil {
			t.Fatal(err)
		}
		clear(sent.Buf[:1400]) // the writer may use its memory again
		var a dgram.Arena
		defer a.Release()
		bursts, err := to.Read(&a)
		if err != nil || len(bursts) != 1 || bursts[0].Len() != 41 || bursts[0].Size != 1400 {
			t.Fatalf("received %d bursts, error %v", len(bursts), err)
		}
		if want := numbered(to.LocalAddr(), 0, 40, 1400).Buf; !bytes.Equal(bursts[0].Buf, append(want, "tail"...)) {
			t.Error("the bytes are not those that were sent")
		}
	})
}

// Datagrams that came one by one are read as bursts of one source and size.
func TestSinglesAreReadAsBursts(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		h := l.Host("h", "203.0.113.1")
		c, one, two := listen(t, h, "127.0.0.1:1000"), listen(t, h, "127.0.0.1:1"), listen(t, h, "127.0.0.1:2")
		for _, d := range []struct {
			from dgram.Conn
			text string
		}{{one, "aaaa"}, {one, "bbbb"}, {one, "cc"}, {one, "dddd"}, {one, ""}, {two, "eeee"}, {two, "ffff"}, {two, "ggggg"}} {
			sendTo(t, d.from, c.LocalAddr(), d.text)
		}
		var a dgram.Arena
		defer a.Release()
		bursts, err := c.Read(&a)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"aaaabbbbcc", "dddd", "", "eeeeffff", "ggggg"}
		if len(bursts) != len(want) {
			t.Fatalf("read %d bursts, want %d", len(bursts), len(want))
		}
		for i, b := range bursts {
			if string(b.Buf) != want[i] {
				t.Errorf("burst %d is %q, want %q", i, b.Buf, want[i])
			}
		}
	})
}

// One write of more than a kernel takes at once is several.
func TestALargeWriteIsCut(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		h := l.Host("h", "203.0.113.1")
		c, from := listen(t, h, "127.0.0.1:1000"), listen(t, h, "127.0.0.1:0")
		s := collect(t, c)
		for _, size := range []int{100, 1452, 40000} {
			if err := from.Write(numbered(c.LocalAddr(), 0, 100, size)); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if s.bursts != 2+3+100 || len(s.numbers) != 300 {
			t.Errorf("received %d datagrams in %d bursts", len(s.numbers), s.bursts)
		}
	})
}

func TestJitterKeepsTheOrder(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		start := time.Now()
		s := pump(t, l, 1000, Jitter(30*time.Millisecond))
		least, most := time.Hour, time.Duration(0)
		for i, at := range s.times {
			d := at.Sub(start.Add(time.Duration(s.numbers[i]) * time.Millisecond))
			least, most = min(least, d), max(most, d)
		}
		if s.late() != 0 || least < 10*time.Millisecond || most < 35*time.Millisecond || most > 40*time.Millisecond {
			t.Errorf("%d late, delays from %v to %v; want none late, 10ms to 40ms", s.late(), least, most)
		}
	})
}

func TestReorder(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		s := pump(t, l, 1000, Reorder(0.1, 5*time.Millisecond))
		if late := s.late(); len(s.numbers) != 1000 || late < 60 || late > 140 {
			t.Errorf("of %d datagrams %d came late, want about 100 of 1000", len(s.numbers), late)
		}
	})
}

func TestDuplicate(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		s := pump(t, l, 1000, Duplicate(0.1))
		if n := len(s.numbers); n < 1060 || n > 1140 {
			t.Errorf("1000 datagrams became %d, want about 1100", n)
		}
	})
}

func TestBandwidth(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		a, b := l.Host("a", "203.0.113.1", Bandwidth(10e6, 50*time.Millisecond)), l.Host("b", "203.0.113.2")
		from, to := listen(t, a, "0.0.0.0:0"), listen(t, b, "203.0.113.2:1000")
		s := collect(t, to)
		start := time.Now()
		for i := range 10 { // 640 datagrams of 1250 bytes on the wire: 1 ms each
			if err := from.Write(numbered(to.LocalAddr(), i*64, 64, 1250-28)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		n := len(s.numbers)
		if n != 51 || l.Dropped(DropQueue) != 640-n {
			t.Fatalf("%d datagrams came, %d were dropped; want 51, which fill the queue of 50 ms", n, l.Dropped(DropQueue))
		}
		if first, last := s.times[0].Sub(start), s.times[n-1].Sub(start); first != 11*time.Millisecond || last != 61*time.Millisecond {
			t.Errorf("they came from %v to %v, want 11ms to 61ms", first, last)
		}
	})
}

func TestMTU(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		router := l.NAT("router", "198.51.100.1", Home(), MTU(1400))
		home := router.Host("home", "192.168.1.2", MTU(1450), Also("2001:db8::2"))
		c, s := listen(t, home, "0.0.0.0:0"), listen(t, l.Host("server", "203.0.113.2"), "203.0.113.2:1000")
		for size, want := range map[int]struct{ tooLarge, arrives bool }{
			1372: {false, true}, 1373: {false, false}, 1422: {false, false}, 1423: {true, false},
		} {
			err := c.Write(numbered(s.LocalAddr(), 0, 1, size))
			got, _ := receive(t, s)
			if dgram.IsTooLarge(err) != want.tooLarge || (err != nil) != want.tooLarge || (got != "") != want.arrives {
				t.Errorf("%d bytes: error %v, arrived %v", size, err, got != "")
			}
		}
		if l.Dropped(DropMTU) != 2 {
			t.Errorf("%d datagrams died at the MTU, want 2", l.Dropped(DropMTU))
		}
		six := listen(t, home, "[::]:0")
		for size, tooLarge := range map[int]bool{1402: false, 1403: true} { // IPv6 headers are 20 bytes longer
			if err := six.Write(numbered(netip.MustParseAddrPort("[2001:db8::9]:1"), 0, 1, size)); dgram.IsTooLarge(err) != tooLarge {
				t.Errorf("%d bytes over IPv6: %v", size, err)
			}
		}
		if err := c.Write(numbered(netip.MustParseAddrPort("127.0.0.1:9"), 0, 1, dgram.MaxBytes)); err != nil {
			t.Errorf("the loopback refuses the largest datagram: %v", err)
		}
	})
}

func TestUnplug(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		h, server := l.Host("h", "203.0.113.1"), l.Host("server", "203.0.113.2")
		c, s := listen(t, h, "0.0.0.0:1000"), listen(t, server, "0.0.0.0:1000")
		send(t, c, "203.0.113.2:1000", "on the way")
		h.Unplug()
		send(t, c, "203.0.113.2:1000", "unplugged")
		if got, _ := receive(t, s); got != "" || l.Dropped(DropLinkDown) != 2 {
			t.Errorf("%q came over a link that is down", got)
		}
		if up := eth0(t, h); up.Up {
			t.Error("an unplugged interface is up")
		}
		h.Plug()
		send(t, s, "203.0.113.1:1000", "plugged")
		expect(t, c, "plugged", "203.0.113.2:1000")
	})
}

func TestDropWhen(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, l *Lab) {
		h, server := l.Host("h", "203.0.113.1"), l.Host("server", "203.0.113.2")
		c, s := listen(t, h, "0.0.0.0:1000"), listen(t, server, "203.0.113.2:1000")
		h.DropWhen(func(_, _ netip.AddrPort, d []byte) bool { return d[3] == 1 })
		got := collect(t, s)
		if err := c.Write(numbered(s.LocalAddr(), 0, 4, 100)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(got.numbers) != 3 || got.numbers[1] != 2 || l.Dropped(DropBlocked) != 1 {
			t.Errorf("received %v", got.numbers)
		}
	})
}
