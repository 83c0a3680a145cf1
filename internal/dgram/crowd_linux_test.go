package dgram

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// attend opens a socket of a Crowd and has it read.
func attend(t testing.TB, c *Crowd, at netip.Addr, handle func(Burst)) *attended {
	t.Helper()
	conn := listen(t, c, at).(*attended)
	if err := conn.Attend(handle); err != nil {
		t.Fatal(err)
	}
	return conn
}

func newCrowd(t testing.TB) *Crowd {
	c := NewCrowd(System(DefaultOptions()))
	t.Cleanup(c.Close)
	return c
}

// eventually waits for what the kernel and the readers do in their own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// Each of many sockets gets what is sent to it, in its order, single datagrams
// and bursts, and what it writes comes from its own address.
func TestCrowdReadsEverySocket(t *testing.T) {
	for _, at := range loopbacks {
		c := newCrowd(t)
		out := listen(t, System(DefaultOptions()), at)
		const sockets, rounds, burst = 200, 20, 5
		var next [sockets]atomic.Uint32
		conns := make([]*attended, sockets)
		for i := range conns {
			conns[i] = attend(t, c, at, func(b Burst) {
				for d := range b.All() {
					if n := binary.BigEndian.Uint32(d); n != next[i].Load() || b.Addr != out.LocalAddr() {
						t.Errorf("socket %d got %d from %v, want %d", i, n, b.Addr, next[i].Load())
					}
					next[i].Add(1)
				}
			})
		}
		for round := range rounds {
			for i, conn := range conns {
				b := Burst{Addr: conn.LocalAddr(), Size: 100}
				for n := range burst {
					b.Buf = append(b.Buf, make([]byte, 100)...)
					binary.BigEndian.PutUint32(b.Buf[n*100:], uint32(round*burst+n))
				}
				if err := out.Write(b); err != nil {
					t.Fatal(err)
				}
				if round%4 == 3 { // some let the readers catch up
					eventually(t, fmt.Sprint("socket ", i), func() bool { return next[i].Load() == uint32(round+1)*burst })
				}
			}
		}
		for i := range conns {
			eventually(t, fmt.Sprint("socket ", i), func() bool { return next[i].Load() == rounds*burst })
		}
		if err := conns[7].Write(One(out.LocalAddr(), []byte("answer"))); err != nil {
			t.Fatal(err)
		}
		var arena Arena
		if got, err := out.Read(&arena); err != nil || len(got) != 1 || got[0].Addr != conns[7].LocalAddr() {
			t.Errorf("an answer came as %v, %v", got, err)
		}
	}
}

// What waits is read to the last datagram, however much it is, and a socket
// that is flooded leaves others their turn.
func TestCrowdLeavesOthersTheirTurn(t *testing.T) {
	c := newCrowd(t)
	c.mu.Lock()
	r, err := newRound()
	if err != nil {
		t.Fatal(err)
	}
	c.rounds = []*round{r} // one reader for all
	c.readers.Go(r.read)
	c.mu.Unlock()
	out := listen(t, System(DefaultOptions()), loopbacks[0])
	const flood = 3000
	began := make(chan struct{})
	var seen, before atomic.Int64
	hot := attend(t, c, loopbacks[0], func(b Burst) {
		<-began
		seen.Add(int64(b.Len()))
	})
	quiet := attend(t, c, loopbacks[0], func(Burst) { before.Store(seen.Load()) })
	for i := range flood {
		if i == flood-1 {
			if err := out.Write(One(quiet.LocalAddr(), []byte("quiet"))); err != nil {
				t.Fatal(err)
			}
		}
		if err := out.Write(One(hot.LocalAddr(), make([]byte, 1+i%1000))); err != nil {
			t.Fatal(err)
		}
	}
	close(began)
	eventually(t, "the flood", func() bool { return seen.Load()+int64(hot.Stats().Overflow) == flood && before.Load() > 0 })
	if before.Load() > flood/2 {
		t.Errorf("the quiet socket had its turn after %d of %d datagrams of the other", before.Load(), flood)
	}
}

// Sockets are closed by whoever reads them, by others, twice, and while traffic
// flows; their descriptors become others'.
func TestCrowdSocketsComeAndGo(t *testing.T) {
	c := newCrowd(t)
	out := listen(t, System(DefaultOptions()), loopbacks[0])
	var stray atomic.Int64
	var tasks sync.WaitGroup
	for worker := range 4 {
		tasks.Go(func() {
			for i := range 100 {
				var conn *attended
				mine := []byte{byte(worker), byte(i)}
				got := make(chan struct{}, 100)
				made, err := c.ListenUDP(netip.AddrPortFrom(loopbacks[0], 0))
				if err != nil {
					t.Error(err)
					return
				}
				conn = made.(*attended)
				if err := conn.Attend(func(b Burst) {
					if string(b.Buf[:2]) != string(mine) {
						stray.Add(1)
					}
					if i%2 == 0 {
						_ = conn.Close()
					}
					got <- struct{}{}
				}); err != nil {
					t.Error(err)
					return
				}
				_ = out.Write(One(conn.LocalAddr(), mine))
				select {
				case <-got:
				case <-time.After(10 * time.Second):
					t.Errorf("socket %d of %d got nothing within 10 s", i, worker)
					return
				}
				if i%2 > 0 { // else its port may be another's
					_ = out.Write(One(conn.LocalAddr(), mine))
					_ = conn.Close()
				}
				if err := conn.Close(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("closed twice it gave %v", err)
				}
				if err := conn.Write(One(out.LocalAddr(), mine)); !errors.Is(err, net.ErrClosed) {
					t.Errorf("closed, a write gave %v", err)
				}
			}
		})
	}
	tasks.Wait()
	if stray.Load() > 0 {
		t.Errorf("%d datagrams came to another socket", stray.Load())
	}
	for _, r := range c.rounds {
		if len(r.members) > 0 {
			t.Errorf("%d sockets are kept that are closed", len(r.members))
		}
	}
}

// A full socket keeps nobody waiting: others' datagrams would wait too.
func TestCrowdWriteDoesNotWait(t *testing.T) {
	c := newCrowd(t)
	conn := listen(t, c, loopbacks[0]).(*attended)
	conn.kernel = &faulty{sending: func(sent) syscall.Errno { return unix.EAGAIN }}
	began := time.Now()
	for range 50 {
		if err := conn.Write(One(conn.LocalAddr(), []byte("x"))); !errors.Is(err, unix.EAGAIN) {
			t.Fatalf("a full socket gave %v", err)
		}
	}
	if took := time.Since(began); took > 10*patience {
		t.Errorf("50 writes to a full socket took %v", took)
	}
	if n := conn.Stats().Full; n != 50 {
		t.Errorf("%d datagrams are counted that found it full", n)
	}
}

func TestCrowdSurvivesErrors(t *testing.T) {
	c := newCrowd(t)
	out := listen(t, System(DefaultOptions()), loopbacks[0])
	var seen atomic.Int64
	conn := listen(t, c, loopbacks[0]).(*attended)
	conn.kernel = &faulty{receiving: []syscall.Errno{unix.EINTR, unix.ECONNREFUSED, unix.ENOMEM}}
	if err := conn.Attend(func(Burst) { seen.Add(1) }); err != nil {
		t.Fatal(err)
	}
	if err := out.Write(One(conn.LocalAddr(), []byte("x"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a datagram behind errors", func() bool { return seen.Load() == 1 })
	if n := conn.Stats().ICMP; n != 1 {
		t.Errorf("%d errors of ICMP are counted", n)
	}
	if _, err := conn.Read(new(Arena)); err == nil {
		t.Error("it can be read by two")
	}
}

func TestCrowdEnds(t *testing.T) {
	c := NewCrowd(System(DefaultOptions()))
	conn := attend(t, c, loopbacks[0], func(Burst) {})
	c.Close()
	if _, err := c.ListenUDP(netip.AddrPortFrom(loopbacks[0], 0)); err == nil {
		t.Error("a crowd that has ended opens sockets")
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	c.Close()
}

// Where there is no such way, sockets are the network's own.
func TestCrowdOfOthers(t *testing.T) {
	c := NewCrowd(System(Options{Portable: true}))
	defer c.Close()
	if _, ok := listen(t, c, loopbacks[0]).(Attended); ok {
		t.Error("a portable socket is attended")
	}
}

// BenchmarkCrowd carries datagrams through many sockets, one to each in turn:
// by a goroutine for each, and by a Crowd's readers.
func BenchmarkCrowd(b *testing.B) {
	for _, name := range []string{"goroutines", "crowd"} {
		b.Run(name, func(b *testing.B) {
			const sockets = 2000
			network := System(DefaultOptions())
			c := newCrowd(b)
			out := listen(b, network, loopbacks[0])
			var seen atomic.Int64
			to := make([]netip.AddrPort, sockets)
			for i := range to {
				if name == "crowd" {
					to[i] = attend(b, c, loopbacks[0], func(Burst) { seen.Add(1) }).LocalAddr()
					continue
				}
				conn := listen(b, network, loopbacks[0])
				to[i] = conn.LocalAddr()
				go readAll(conn, &seen)
			}
			payload := make([]byte, 200)
			sent := int64(0)
			for b.Loop() {
				if err := out.Write(One(to[sent%sockets], payload)); err != nil {
					b.Fatal(err)
				}
				for sent++; sent-seen.Load() > sockets/2; {
					time.Sleep(10 * time.Microsecond)
				}
			}
		})
	}
}
