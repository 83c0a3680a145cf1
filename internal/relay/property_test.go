package relay

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// nullConn counts and forgets.
type nullConn struct {
	fakeConn
	n int
}

func (c *nullConn) Write(dgram.Burst) error { c.n++; return nil }

func TestNoAllocationPerBurst(t *testing.T) {
	tb := newTable(t, Limits{})
	tb.bindBoth()
	conn := &nullConn{}
	tb.Receive(conn, dgram.One(homeAddr, tb.bindOf(0)))
	tb.Receive(conn, dgram.One(laptopAddr, tb.bindOf(1)))
	b := dgram.Burst{Addr: homeAddr, Buf: make([]byte, 16*1400), Size: 1400}
	if n := testing.AllocsPerRun(1000, func() { tb.Receive(conn, b) }); n != 0 {
		t.Errorf("%v allocations a burst, want 0", n)
	}
	stray := dgram.One(otherAddr, make([]byte, 1400))
	stray.Buf[0] = 0xa0
	if n := testing.AllocsPerRun(1000, func() { tb.Receive(conn, stray) }); n != 0 {
		t.Errorf("%v allocations for a stranger's datagram, want 0", n)
	}
	if conn.n < 1000 {
		t.Errorf("%d bursts were forwarded", conn.n)
	}
}

func BenchmarkForward(b *testing.B) {
	s := NewServer(Limits{Bytes: 1e15, Datagrams: 1e15})
	conn := &nullConn{}
	a, err := s.Allocate(time.Now(), "home", "laptop")
	if err != nil {
		b.Fatal(err)
	}
	s.Receive(conn, dgram.One(homeAddr, makeBind(a, 0, 1)))
	s.Receive(conn, dgram.One(laptopAddr, makeBind(a, 1, 1)))
	burst := dgram.Burst{Addr: homeAddr, Buf: make([]byte, 16*1400), Size: 1400}
	b.ReportAllocs()
	for b.Loop() {
		s.Receive(conn, burst)
	}
}

// TestOnlyToBoundAddresses: whatever comes from whom, in any order, the relay
// sends only to where a leg's last valid bind came from, and data only to the
// other leg.
// S3-14
func TestOnlyToBoundAddresses(t *testing.T) {
	for seed := range uint64(200) {
		bubble.Test(t, func(t *testing.T) { onlyToBound(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func onlyToBound(t *testing.T, rnd *rand.Rand) {
	tb := newTable(t, Limits{})
	addrs := []netip.AddrPort{homeAddr, laptopAddr, otherAddr, addr("192.0.2.50:1")}
	var bound [2]netip.AddrPort
	holder := func(a netip.AddrPort) int {
		for i, b := range bound {
			if a == b {
				return i
			}
		}
		return -1
	}
	var seen [][]byte
	for range 60 {
		from := addrs[rnd.IntN(len(addrs))]
		was := holder(from)
		var d []byte
		switch rnd.IntN(4) {
		case 0: // a valid bind moves the leg, unless the other has that address
			leg := rnd.IntN(2)
			d = tb.bindOf(leg)
			if was == -1 || was == leg { // else it is that leg's payload
				bound[leg] = from
				seen = append(seen, d)
			}
		case 1: // one that was overheard
			if len(seen) > 0 {
				d = seen[rnd.IntN(len(seen))]
			}
		case 2:
			d = []byte{byte(rnd.Uint32()), 1, 2, 3}
		default:
			time.Sleep(time.Duration(rnd.IntN(3000)) * time.Millisecond)
			d = []byte{0xa1, 5}
		}
		tb.from(from, d)
		for _, b := range tb.conn.take() {
			if holder(b.Addr) == -1 {
				t.Fatalf("%x from %v: sent to %v, which never bound", d, from, b.Addr)
			}
			answer, err := proto.ParseBind(b.Buf)
			if isAnswer := err == nil && answer.Bound; !isAnswer && b.Addr == from && bytes.Equal(b.Buf, d) {
				t.Fatalf("%x from %v was reflected", d, from)
			}
		}
	}
}

// FuzzReceive: nothing that a stranger or a leg sends makes the relay panic,
// answer a stranger, or change what it forwards.
func FuzzReceive(f *testing.F) {
	f.Add([]byte{}, uint16(0), true)
	f.Add([]byte{0x83, 1, 2}, uint16(1), false)
	a := Allocation{ID: proto.Token{1, 2, 3}}
	f.Add(makeBind(a, 0, 9), uint16(proto.BindSize), false)
	f.Add(append(makeBind(a, 0, 9), makeBind(a, 1, 9)...), uint16(proto.BindSize), true)
	f.Fuzz(func(t *testing.T, d []byte, size uint16, leg bool) {
		tb := newTable(t, Limits{})
		tb.bindBoth()
		b := dgram.Burst{Addr: otherAddr, Buf: d, Size: min(int(size), len(d))}
		if b.Size == 0 || b.Len() > dgram.MaxSegments {
			b.Size = len(d)
		}
		if leg {
			b.Addr = homeAddr
		}
		tb.Receive(tb.conn, b)
		sent := tb.conn.take()
		if !leg && len(sent) > 0 {
			t.Fatalf("a stranger made the relay send %v", sent)
		}
		if leg && (len(sent) != 1 || sent[0].Addr != laptopAddr || string(sent[0].Buf) != string(d) || sent[0].Size != b.Size) {
			t.Fatalf("a leg's burst %x was forwarded as %v", d, sent)
		}
	})
}

// FuzzLeg: only the relay's genuine answers are taken out, whatever comes.
func FuzzLeg(f *testing.F) {
	f.Add([]byte{0x84}, uint16(1))
	f.Add(append(make([]byte, proto.BindSize), 1, 2, 3), uint16(proto.BindSize))
	f.Fuzz(func(t *testing.T, d []byte, size uint16) {
		l, err := NewLeg(&fakeConn{addr: homeAddr}, relayAddr, &proto.Allocation{Id: make([]byte, 8), Key: make([]byte, 32)})
		if err != nil {
			t.Fatal(err)
		}
		b := dgram.Burst{Addr: relayAddr, Buf: d, Size: int(size)}
		if b.Size == 0 {
			b.Size = len(d)
		}
		want := string(d)
		if l.Receive(b) {
			t.Fatalf("%x passed for an answer", d)
		}
		if rest, ok := l.Strip(b); !ok || string(rest.Buf) != want || rest.Size != b.Size {
			t.Fatalf("%x was stripped to %x", want, rest.Buf)
		}
	})
}

// TestManyReaders drives the table from several goroutines for the race
// detector: legs that roam, data, expiry and statistics at once.
func TestManyReaders(t *testing.T) {
	s := NewServer(Limits{})
	conns := []dgram.Conn{&nullSafeConn{}, &nullSafeConn{}}
	var done sync.WaitGroup
	for g := range 4 {
		done.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(g), 0))
			for range 20 {
				a, err := s.Allocate(time.Now(), "home", "laptop")
				if err != nil {
					t.Error(err)
					return
				}
				for i := range uint64(50) {
					leg, conn := rnd.IntN(2), conns[rnd.IntN(2)]
					from := netip.AddrPortFrom(homeAddr.Addr(), uint16(rnd.IntN(64)))
					s.Receive(conn, dgram.One(from, makeBind(a, leg, i+1)))
					s.Receive(conn, dgram.One(from, []byte("some data")))
				}
				s.Expire(time.Now())
				s.Stats()
			}
			s.Remove(time.Now(), "laptop")
		})
	}
	done.Wait()
	if n := s.Stats().Allocations; n != 0 {
		t.Errorf("%d allocations live", n)
	}
	for i := range s.sources {
		if n := len(s.sources[i].legs); n != 0 {
			t.Errorf("shard %d still knows %d legs", i, n)
		}
	}
}

type nullSafeConn struct{ fakeConn }

func (c *nullSafeConn) Write(dgram.Burst) error { return net.ErrClosed }
