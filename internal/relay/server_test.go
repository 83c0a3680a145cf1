package relay

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// S3-04, S3-07
func TestBothLegsForward(t *testing.T) {
	tb := newTable(t, Limits{})
	if !tb.from(homeAddr, tb.bindOf(0)) {
		t.Error("a bind was not the relay's business")
	}
	to, bounds := tb.bounds()
	if len(to) != 1 || to[0] != homeAddr || bounds[0].Both || bounds[0].Observed != homeAddr || bounds[0].Counter != 1 {
		t.Fatalf("the first bind was answered %v to %v", bounds, to)
	}
	tb.from(laptopAddr, tb.bindOf(1))
	to, bounds = tb.bounds()
	if len(to) != 2 || to[0] != laptopAddr || to[1] != homeAddr || !bounds[0].Both || !bounds[1].Both ||
		bounds[0].Leg != 1 || bounds[1].Leg != 0 {
		t.Fatalf("the second bind was answered %v to %v", bounds, to)
	}

	burst := dgram.Burst{Addr: homeAddr, Buf: []byte("aaabbbccd"), Size: 3}
	if !tb.Receive(tb.conn, burst) {
		t.Error("a leg's burst was not the relay's business")
	}
	sent := tb.conn.take()
	if len(sent) != 1 || sent[0].Addr != laptopAddr || sent[0].Size != 3 || string(sent[0].Buf) != "aaabbbccd" {
		t.Errorf("a burst was forwarded as %v", sent)
	}
	tb.from(laptopAddr, nil) // an empty datagram is one too
	tb.wantSent(homeAddr, "")
	st := tb.Stats()
	if st.Datagrams != 4 || st.Bytes != 9 || st.Sessions != 1 || st.Allocations != 1 || st.Binds != 2 {
		t.Errorf("stats: %+v", st)
	}
}

func TestLegsOnTwoConns(t *testing.T) {
	tb := newTable(t, Limits{})
	v6 := &fakeConn{addr: addr("[2001:db8::1]:443")}
	tb.from(homeAddr, tb.bindOf(0))
	laptop6 := addr("[2001:db8:7::2]:51000")
	tb.Receive(v6, dgram.One(laptop6, tb.bindOf(1)))
	tb.conn.take()
	v6.take()

	tb.from(homeAddr, []byte("to six"))
	if sent := v6.take(); len(sent) != 1 || sent[0].Addr != laptop6 || string(sent[0].Buf) != "to six" {
		t.Errorf("over IPv6: %v", sent)
	}
	tb.Receive(v6, dgram.One(laptop6, []byte("to four")))
	tb.wantSent(homeAddr, "to four")
	if tb.Receive(v6, dgram.One(homeAddr, []byte{0x40})) {
		t.Error("an address is a leg's on the conn where it bound, and there alone")
	}
}

// S3-14
func TestStrangersGetNoAnswer(t *testing.T) {
	tb := newTable(t, Limits{})
	wrongMAC := tb.bindOf(0)
	wrongMAC[len(wrongMAC)-1] ^= 1
	wrongLeg := tb.bindOf(0)
	wrongLeg[9] = 1
	noLeg := tb.bindOf(0)
	noLeg[9] = 7
	elsewhere := tb.bindOf(0)
	elsewhere[1] ^= 1
	for name, c := range map[string]struct {
		d    []byte
		ours bool
	}{
		"wrong MAC": {wrongMAC, true}, "wrong leg": {wrongLeg, true}, "no leg": {noLeg, true},
		"unknown allocation": {elsewhere, true}, "short bind": {[]byte{0x83, 1}, true},
		"data": {[]byte{0xa0, 1, 2}, true}, "probe": {[]byte{0x81}, true}, "prime": {proto.Prime(), true},
		"bound": {append([]byte{0x84}, wrongMAC[1:]...), true},
		"QUIC":  {[]byte{0x40, 1}, false}, "no kind": {[]byte{0x01}, false}, "empty": {nil, false},
	} {
		if got := tb.from(otherAddr, c.d); got != c.ours {
			t.Errorf("%s: ours = %v, want %v", name, got, c.ours)
		}
		if sent := tb.conn.take(); len(sent) > 0 {
			t.Errorf("%s was answered: %v", name, sent)
		}
	}
	tb.wantDrops(badMAC, 2)
	tb.wantDrops(unknownAllocation, 1)
	tb.wantDrops(unknownSource, 6)
}

// S3-12, S3-14
func TestReplayedBindMovesNothing(t *testing.T) {
	tb := newTable(t, Limits{})
	overheard := tb.bindOf(0)
	tb.from(homeAddr, overheard)
	tb.from(laptopAddr, tb.bindOf(1))
	tb.conn.take()

	tb.from(otherAddr, overheard)
	tb.wantSent(otherAddr) // nothing
	tb.wantDrops(oldCounter, 1)
	tb.from(laptopAddr, []byte("still home"))
	tb.wantSent(homeAddr, "still home")
}

// S1-16
func TestRoaming(t *testing.T) {
	tb := newTable(t, Limits{})
	tb.bindBoth()
	tb.from(otherAddr, tb.bindOf(0))
	to, bounds := tb.bounds()
	if len(to) != 1 || to[0] != otherAddr || !bounds[0].Both || bounds[0].Observed != otherAddr {
		t.Fatalf("the bind from a new address was answered %v to %v", bounds, to)
	}
	tb.from(laptopAddr, []byte("follows"))
	tb.wantSent(otherAddr, "follows")
	tb.from(homeAddr, []byte{0xa0, 'l', 'a', 't', 'e'})
	tb.wantSent(laptopAddr) // the old address is a stranger's
	tb.wantDrops(unknownSource, 1)
	if st := tb.Stats(); st.Moves != 1 || st.Sessions != 1 {
		t.Errorf("stats: %+v", st)
	}
}

// S3-08
func TestPayloadThatLooksLikeABindIsForwarded(t *testing.T) {
	tb := newTable(t, Limits{})
	tb.bindBoth()
	foreign, err := tb.Allocate(time.Now(), "x", "y")
	if err != nil {
		t.Fatal(err)
	}
	wrongMAC := makeBind(tb.alloc, 0, 99)
	wrongMAC[40] ^= 1
	for name, d := range map[string][]byte{
		"wrong MAC": wrongMAC, "another allocation": makeBind(foreign, 0, 1), "the other leg": makeBind(tb.alloc, 1, 99),
		"random": bytes.Repeat([]byte{0x83}, proto.BindSize), "bound": append([]byte{0x84}, wrongMAC[1:]...),
	} {
		tb.from(homeAddr, d)
		sent := tb.conn.take()
		if len(sent) != 1 || sent[0].Addr != laptopAddr || !bytes.Equal(sent[0].Buf, d) {
			t.Errorf("%s: forwarded as %v", name, sent)
		}
	}
}

func TestBindInsideABurst(t *testing.T) {
	tb := newTable(t, Limits{})
	tb.bindBoth()
	data := bytes.Repeat([]byte{'x'}, proto.BindSize)
	buf := bytes.Join([][]byte{data, tb.bindOf(0), data, data, tb.bindOf(0), []byte("end")}, nil)
	tb.Receive(tb.conn, dgram.Burst{Addr: homeAddr, Buf: buf, Size: proto.BindSize})
	n := 0
	for _, b := range tb.conn.take() {
		switch {
		case b.Addr == homeAddr && b.Buf[0] == 0x84:
			n += 100
		case b.Addr == laptopAddr:
			n += b.Len()
		default:
			t.Errorf("sent %v", b)
		}
	}
	if n != 204 {
		t.Errorf("answers and forwarded datagrams: %d, want 2 and 4", n)
	}
	// As the last and shorter one, as GRO may join it; and from a stranger.
	long := bytes.Repeat([]byte{0xa0}, 100)
	tb.Receive(tb.conn, dgram.Burst{Addr: homeAddr, Buf: append(bytes.Clone(long), tb.bindOf(0)...), Size: 100})
	if sent := tb.conn.take(); len(sent) != 2 || sent[0].Addr != laptopAddr || len(sent[0].Buf) != 100 {
		t.Errorf("data and a bind: sent %v", sent)
	}
	tb.Receive(tb.conn, dgram.Burst{Addr: otherAddr, Buf: append(tb.bindOf(0), "data"...), Size: proto.BindSize})
	if sent := tb.conn.take(); len(sent) != 2 || sent[0].Addr != otherAddr || string(sent[1].Buf) != "data" {
		t.Errorf("a stranger's bind and data: sent %v", sent)
	}
}

func TestFirstDatagramsAreHeld(t *testing.T) {
	tb := newTable(t, Limits{})
	tb.from(homeAddr, tb.bindOf(0))
	tb.conn.take()
	var want []string
	for i := range 20 {
		d := fmt.Sprintf("datagram %d", i)
		if i < holdDatagrams {
			want = append(want, d)
		}
		tb.from(homeAddr, []byte(d))
	}
	tb.wantDrops(otherUnbound, 4)
	tb.wantSent(homeAddr) // nothing yet
	tb.from(laptopAddr, tb.bindOf(1))
	sent := tb.conn.take()
	if len(sent) != 2+len(want) || sent[0].Buf[0] != 0x84 {
		t.Fatalf("the second bind brought %v", sent)
	}
	for i, d := range want {
		if b := sent[1+i]; b.Addr != laptopAddr || string(b.Buf) != d {
			t.Errorf("held datagram %d is %q to %v", i, b.Buf, b.Addr)
		}
	}
	if tb.heldBytes != 0 {
		t.Errorf("%d bytes are still counted as held", tb.heldBytes)
	}
}

func TestHeldBytesAreBounded(t *testing.T) {
	tb := newTable(t, Limits{})
	tb.from(homeAddr, tb.bindOf(0))
	tb.Receive(tb.conn, dgram.Burst{Addr: homeAddr, Buf: make([]byte, 30*1400), Size: 1400})
	tb.wantDrops(otherUnbound, 30-16)
	tb.Receive(tb.conn, dgram.One(homeAddr, []byte("x")))
	tb.wantDrops(otherUnbound, 30-16+1)
	if tb.heldBytes != 16*1400 {
		t.Errorf("%d bytes held", tb.heldBytes)
	}
	tb.Remove(time.Now(), "home")
	if tb.heldBytes != 0 {
		t.Errorf("%d bytes held by an ended allocation", tb.heldBytes)
	}
}

func TestHeldTooLongIsDropped(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		tb := newTable(t, Limits{})
		tb.from(homeAddr, tb.bindOf(0))
		tb.conn.take()
		tb.from(homeAddr, []byte("old"))
		time.Sleep(holdFor)
		tb.from(laptopAddr, tb.bindOf(1))
		if sent := tb.conn.take(); len(sent) != 2 {
			t.Errorf("sent %v, want two answers", sent)
		}
		tb.wantDrops(heldTooLong, 1)
	})
}

// S3-11
func TestExpiry(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		tb := newTable(t, Limits{})
		tb.bindBoth()
		for range 20 { // refreshed, it lives
			time.Sleep(refreshEach)
			tb.from(homeAddr, tb.bindOf(0))
			tb.from(laptopAddr, tb.bindOf(1))
			tb.Expire(time.Now())
		}
		tb.conn.take()
		if st := tb.Stats(); st.Sessions != 1 || st.Moves != 0 {
			t.Fatalf("stats: %+v", st)
		}

		time.Sleep(lapse)
		tb.Expire(time.Now())
		tb.from(homeAddr, []byte{0xa0}) // the address is nobody's now, even if it sends
		tb.wantSent(homeAddr)
		tb.wantDrops(unknownSource, 1)
		if st := tb.Stats(); st.Sessions != 0 || st.Allocations != 1 {
			t.Errorf("stats after the legs lapsed: %+v", st)
		}
		tb.from(homeAddr, tb.bindOf(0)) // a leg that slept comes back
		if _, bounds := tb.bounds(); len(bounds) != 1 || bounds[0].Both || bounds[0].Gone {
			t.Errorf("the late bind was answered %v", bounds)
		}

		time.Sleep(defaultIdle)
		tb.Expire(time.Now())
		if st := tb.Stats(); st.Allocations != 0 || tb.living.all() != 0 || len(tb.members) != 0 {
			t.Errorf("after the idle time: %+v", st)
		}
		gone := tb.bindOf(1)
		tb.from(laptopAddr, gone)
		tb.from(laptopAddr, gone) // a replay gets nothing
		if to, bounds := tb.bounds(); len(bounds) != 1 || !bounds[0].Gone || to[0] != laptopAddr {
			t.Errorf("a bind of an ended allocation was answered %v", bounds)
		}
		time.Sleep(remembered)
		tb.Expire(time.Now())
		tb.from(laptopAddr, tb.bindOf(1))
		tb.wantSent(laptopAddr)
		tb.wantDrops(unknownAllocation, 1)
	})
}

func TestNeverBoundEndsSoon(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		tb := newTable(t, Limits{})
		time.Sleep(defaultUnbound)
		tb.Expire(time.Now())
		if st := tb.Stats(); st.Allocations != 0 {
			t.Errorf("stats: %+v", st)
		}
	})
}

func TestLimitsOfAllocations(t *testing.T) {
	now := time.Now()
	s := NewServer(Limits{Allocations: 3, PerMember: 2})
	for range 2 {
		if _, err := s.Allocate(now, "home", "laptop"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Allocate(now, "phone", "home"); !errors.Is(err, ErrLimited) {
		t.Errorf("a third of one member: %v", err)
	}
	if _, err := s.Allocate(now, "phone", "nas"); err != nil {
		t.Error(err)
	}
	if _, err := s.Allocate(now, "a", "b"); !errors.Is(err, ErrLimited) {
		t.Errorf("a fourth: %v", err)
	}
	s.Remove(now, "home")
	if _, err := s.Allocate(now, "home", "home"); err != nil {
		t.Errorf("after the member's were removed: %v", err)
	}
	if st := s.Stats(); st.Allocations != 2 || st.Refused != 2 {
		t.Errorf("stats: %+v", st)
	}
	for range 100 { // the memory of ended ones is bounded
		if _, err := s.Allocate(now, "x", "y"); err != nil {
			t.Fatal(err)
		}
		s.Remove(now, "x")
	}
	if len(s.allocations) > 2*3 {
		t.Errorf("%d allocations are remembered", len(s.allocations))
	}
}

func TestRateLimit(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		tb := newTable(t, Limits{Bytes: 1e6, Datagrams: 1000})
		tb.bindBoth()
		// The depth is 100 ms: 100 kB and 100 datagrams.
		send := func(n, size int) (passed int) {
			tb.Receive(tb.conn, dgram.Burst{Addr: homeAddr, Buf: make([]byte, n*size), Size: size})
			for _, b := range tb.conn.take() {
				passed += b.Len()
			}
			return passed
		}
		if got := send(150, 100); got != 100 {
			t.Errorf("%d datagrams passed at once, want 100", got)
		}
		tb.wantDrops(overRate, 50)
		time.Sleep(20 * time.Millisecond)
		if got := send(64, 100); got != 20 {
			t.Errorf("%d datagrams passed after 20 ms, want 20", got)
		}
		time.Sleep(time.Second)
		if got := send(100, 2000); got != 50 {
			t.Errorf("%d datagrams of 2000 bytes passed, want 50", got)
		}
		tb.from(laptopAddr, []byte("the other direction has its own"))
		if got := tb.conn.take(); len(got) != 1 {
			t.Errorf("sent %v", got)
		}
	})
}

func TestWriteErrorIsCounted(t *testing.T) {
	tb := newTable(t, Limits{})
	tb.bindBoth()
	tb.conn.deliver = func(dgram.Burst) error { return errors.New("message too long") }
	tb.Receive(tb.conn, dgram.Burst{Addr: homeAddr, Buf: make([]byte, 30), Size: 10})
	tb.wantDrops(writeError, 3)
	if st := tb.Stats(); st.Datagrams != 0 {
		t.Errorf("stats: %+v", st)
	}
}

// TestGone ends a leg's stream: what comes for the leg waits until it has bound
// again elsewhere, and what comes late from the stream is a stranger's.
func TestGone(t *testing.T) {
	tb := newTable(t, Limits{})
	tb.from(homeAddr, tb.bindOf(0))
	stream := &fakeConn{addr: relayAddr}
	tb.Receive(stream, dgram.One(laptopAddr, tb.bindOf(1)))
	tb.conn.take()
	stream.take()
	if tb.Gone(tb.conn, laptopAddr) {
		t.Error("another conn's leg was forgotten")
	}
	if !tb.Gone(stream, laptopAddr) || tb.Gone(stream, laptopAddr) {
		t.Error("the leg was not forgotten once")
	}
	tb.from(homeAddr, []byte("meanwhile"))
	tb.Receive(stream, dgram.One(laptopAddr, []byte{0xa0}))
	tb.wantDrops(unknownSource, 1)
	if sent := stream.take(); len(sent) != 0 {
		t.Errorf("sent %v to the stream that has ended", sent)
	}
	next := &fakeConn{addr: relayAddr}
	tb.Receive(next, dgram.One(laptopAddr, tb.bindOf(1)))
	if sent := next.take(); len(sent) != 2 || string(sent[1].Buf) != "meanwhile" {
		t.Errorf("sent %v to the next one", sent)
	}
}
