package tun

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// run starts a link with a device of its own, until the test ends.
func run(t *testing.T, peers Peers, conns ...dgram.Conn) (*Link, *fakeDevice) {
	t.Helper()
	d := newFakeDevice()
	l := NewLink(Config{Device: d, Own: []netip.Addr{a4, a6}, Conns: conns, Peers: peers, Now: time.Now}, 1492)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the link ended with %v", err)
		}
	})
	return l, d
}

// world is a bubble in which everything has come to rest after each step.
func world(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	t.Parallel()
	bubble.Test(t, f)
}

// S1-05, S1-08, S1-09
func TestServerAndClient(t *testing.T) {
	world(t, func(t *testing.T) {
		network := newFakeNet()
		port := network.listen("203.0.113.10:4000")
		client := network.listen("192.0.2.7:5555")
		l, d := run(t, NewClients(span(t, DefaultSpan4), Span{}), port)

		segment := tcp(netip.MustParseAddr("10.0.0.1"), b4, 5, 2, nil, nil)
		_ = client.Write(dgram.One(port.local, segment))
		synctest.Wait()
		got := d.take()
		if len(got) != 1 {
			t.Fatalf("the device got %d packets", len(got))
		}
		r := checkReceived(t, got[0])
		if r.to != a4 || r.from != netip.MustParseAddr("198.19.0.2") {
			t.Errorf("came from %v to %v", r.from, r.to)
		}
		answer := tcp(r.to, r.from, 6, flagACK|2, nil, nil)
		d.send(ip(r.to, r.from, protocolTCP, answer))
		synctest.Wait()
		sent := port.take()
		if len(sent) != 1 || sent[0].Addr != client.local || !bytes.Equal(sent[0].Buf, answer) {
			t.Errorf("was answered by %v, want the segment as it is", sent)
		}
		if s := l.Stats(); s.Sent != 1 || s.Received != 1 || len(s.Dropped) != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// S1-06, S1-07
func TestWhatIsDroppedIsCounted(t *testing.T) {
	world(t, func(t *testing.T) {
		network := newFakeNet()
		port, client := network.listen("203.0.113.10:4000"), network.listen("192.0.2.7:5555")
		l, d := run(t, NewClients(span(t, DefaultSpan4), Span{}), port)
		segment := tcp(a4, b4, 5, flagACK, nil, nil)
		d.send(ip(a4, b4, 17, segment))
		d.send(append([]byte{0x46}, ip(a4, b4, protocolTCP, segment)[1:]...))
		d.send(ip(a4, b4, protocolTCP, segment))                                   // there is nobody
		d.send(ip(a4, b4, protocolTCP, tcp(a4, b4, 5, 2, nil, pattern(2000)))[:9]) // cut short
		d.send(nil)
		d.out <- []byte{1, 2, 3}
		_ = client.Write(dgram.One(port.local, pattern(19)))
		_ = client.Write(dgram.One(port.local, make([]byte, 500)))
		_ = client.Write(dgram.One(port.local, nil))
		synctest.Wait()
		want := map[string]uint64{"not_tcp": 1, "ip_options": 1, "unknown_destination": 1, "bad_length": 3, "not_a_segment": 3}
		if got := l.Stats().Dropped; len(got) != len(want) {
			t.Errorf("%v, want %v", got, want)
		} else {
			for why, n := range want {
				if got[why] != n {
					t.Errorf("%s: %d, want %d", why, got[why], n)
				}
			}
		}
		if got := d.take(); len(got) != 0 || len(port.take()) != 0 {
			t.Errorf("the device got %x", got)
		}
	})
}

func TestWhoSendsTooMuchIsTold(t *testing.T) {
	world(t, func(t *testing.T) {
		port := newFakeNet().listen("192.0.2.9:4000")
		l, d := run(t, NewFixed(4000, port), port)
		d.send(ip(a4, b4, protocolTCP, tcp(a4, b4, 5, flagACK, nil, pattern(1452))))
		d.send(ip(a4, b4, protocolTCP, tcp(a4, b4, 6, flagACK, nil, pattern(1453))))
		synctest.Wait()
		got := d.take()
		if len(port.take()) != 1 || len(got) != 1 || l.Stats().Dropped["too_large"] != 1 {
			t.Fatalf("the device got %x; %+v", got, l.Stats())
		}
		b := got[0][vnetSize:]
		if b[9] != protocolICMP || binary.BigEndian.Uint16(b[26:]) != 1492 {
			t.Errorf("was told %x", b)
		}
		port.err = dgram.ErrTooLarge
		d.send(ip(a4, b4, protocolTCP, tcp(a4, b4, 7, flagACK, nil, nil)))
		synctest.Wait()
		if l.Stats().Dropped["too_large"] != 2 {
			t.Errorf("%+v", l.Stats())
		}
	})
}

// S1-10
func TestSymmetricMode(t *testing.T) {
	world(t, func(t *testing.T) {
		network := newFakeNet()
		at, bt := network.listen("192.0.2.1:4000"), network.listen("192.0.2.2:4000")
		_, a := run(t, NewFixed(4000, at), at)
		_, b := run(t, NewFixed(4000, bt), bt)
		// Each knows the other by its real address, and itself by its device's.
		ping := func(from, to *fakeDevice, fromAddr, toAddr netip.AddrPort) {
			to.take()
			from.send(ip(a4, toAddr.Addr(), protocolTCP, tcp(a4, toAddr.Addr(), 5, 2, nil, nil)))
			synctest.Wait()
			got := to.take()
			if len(got) != 1 {
				t.Fatalf("%d packets", len(got))
			}
			if r := checkReceived(t, got[0]); r.from != fromAddr.Addr() || r.to != a4 {
				t.Errorf("came from %v to %v", r.from, r.to)
			}
		}
		ping(a, b, at.local, bt.local)
		ping(b, a, bt.local, at.local)
	})
}

// session is a host that exposes and one that dials, with the two sockets of
// the agent's between them: where each of the dialing process's sockets is
// seen is the far socket of its flow.
type session struct {
	network   *fakeNet
	port      *fakeConn // of the exposing process
	socks     map[netip.Addr]dgram.Conn
	four, six *fakeConn // of the dialing one
	home      *Home
	guests    *Guests
	exposing  *fakeDevice
	dialing   *fakeDevice
	exposed   *Link
}

func newSession(t *testing.T) *session {
	t.Helper()
	s := &session{network: newFakeNet()}
	s.port = s.network.listen("127.0.0.1:7000")
	s.four, s.six = s.network.listen("127.0.0.1:5004"), s.network.listen("127.0.0.1:5006")
	s.socks = map[netip.Addr]dgram.Conn{netip.MustParseAddr("198.19.0.2"): s.four, netip.MustParseAddr("fd72::2"): s.six}
	s.guests = NewGuests(span(t, "198.19.0.0/16"), span(t, "fd72::/64"), nil)
	s.exposed, s.exposing = run(t, s.guests, s.port)
	s.home = NewHome(s.socks)
	s.home.Reach(s.port.local)
	_, s.dialing = run(t, s.home, s.four, s.six)
	go s.home.Greet(t.Context())
	synctest.Wait()
	return s
}

// connect sends a SYN from the dialing host, and returns as whom it came.
func (s *session) connect(t *testing.T, from, to netip.Addr) netip.Addr {
	t.Helper()
	s.exposing.take()
	s.dialing.send(ip(from, to, protocolTCP, tcp(from, to, 5, 2, nil, nil)))
	synctest.Wait()
	got := s.exposing.take()
	if len(got) != 1 {
		t.Fatalf("%d packets came", len(got))
	}
	r := checkReceived(t, got[0])
	s.dialing.take()
	s.exposing.send(ip(r.to, r.from, protocolTCP, tcp(r.to, r.from, 6, 2|flagACK, nil, nil)))
	synctest.Wait()
	if back := s.dialing.take(); len(back) != 1 {
		t.Fatalf("%d answers came", len(back))
	} else if r := checkReceived(t, back[0]); r.from != to || r.to != from {
		t.Errorf("the answer is from %v to %v, want %v and %v", r.from, r.to, to, from)
	}
	return r.from
}

// The entry is the peer's process, whatever socket it comes by.
// S1-13, S1-15, S1-16
func TestAPeerKeepsItsInsideAddress(t *testing.T) {
	world(t, func(t *testing.T) {
		s := newSession(t)
		home4, home6 := netip.MustParseAddr("198.19.0.2"), netip.MustParseAddr("fd72::2")
		first := s.connect(t, a4, home4)
		first6 := s.connect(t, a6, home6)
		if first.Is6() || first6.Is4() || s.guests.Len() != 2 {
			t.Errorf("the peer is %v and %v, of %d entries", first, first6, s.guests.Len())
		}
		for i := range 3 { // flows of a session that was replaced
			s.network.translate(s.four, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(9000+i)).String())
			// The first segment is dropped, because nobody has said yet whose
			// it is, and TCP sends it again.
			s.dialing.send(ip(a4, home4, protocolTCP, tcp(a4, home4, 5, flagACK, nil, nil)))
			synctest.Wait()
			if again := s.connect(t, a4, home4); again != first {
				t.Errorf("behind another socket the peer is %v, and was %v", again, first)
			}
		}
		if s.guests.Len() != 2 {
			t.Errorf("%d entries for one process with two families", s.guests.Len())
		}
		if !s.home.Answers(time.Now()) {
			t.Error("the peer has answered, and is not known to")
		}
	})
}

// Even who learns another peer's ID does not get its address.
// S1-16
func TestAnInsideAddressIsThePeersAlone(t *testing.T) {
	t.Parallel()
	g := NewGuests(span(t, DefaultSpan4), Span{}, nil)
	conn := &fakeConn{}
	m := message{kind: hello, id: ID{1}}.append(nil)
	var seen []netip.Addr
	for _, far := range []string{"127.64.0.1:1000", "127.64.0.2:1000", "127.64.0.1:2000"} {
		way := path.Path{Conn: conn, Addr: netip.MustParseAddrPort(far)}
		g.Tell(start, way, m)
		inside, _ := g.Source(start, way)
		seen = append(seen, inside)
	}
	if seen[0] == seen[1] || seen[0] != seen[2] {
		t.Errorf("the first, the second and the first peer again are %v", seen)
	}
}

// The flows live while nothing crosses: a connection begun at home gets through
// after an hour.
func TestIdleFlowsAreKept(t *testing.T) {
	world(t, func(t *testing.T) {
		s := newSession(t)
		first := s.connect(t, a4, netip.MustParseAddr("198.19.0.2"))
		s.four.take()
		time.Sleep(time.Hour)
		synctest.Wait()
		if n := len(s.four.take()); n < 55 || n > 65 {
			t.Errorf("said hello %d times in an hour", n)
		}
		s.dialing.take()
		s.exposing.send(ip(a4, first, protocolTCP, tcp(a4, first, 5, 2, nil, nil)))
		synctest.Wait()
		if got := s.dialing.take(); len(got) != 1 {
			t.Errorf("%d packets came", len(got))
		}
	})
}

// Nobody is heard who has not come through the agent and said hello; what the
// agent's socket is to the dialing side, everybody else is a stranger.
// S1-11
func TestStrangersAreNotHeard(t *testing.T) {
	world(t, func(t *testing.T) {
		s := newSession(t)
		stranger := s.network.listen("127.0.0.1:6666")
		segment := tcp(a4, b4, 5, 2, nil, nil)
		_ = stranger.Write(dgram.One(s.port.local, segment))
		_ = stranger.Write(dgram.One(s.four.local, segment))
		_ = stranger.Write(dgram.One(s.four.local, message{kind: who}.append(nil)))
		_ = stranger.Write(dgram.One(s.port.local, pattern(greetingSize)))
		synctest.Wait()
		if got := append(s.exposing.take(), s.dialing.take()...); len(got) != 0 {
			t.Errorf("a stranger came through: %x", got)
		}
		if d := s.exposed.Stats().Dropped; d["stranger"] != 1 || d["not_a_segment"] != 1 {
			t.Errorf("%v", d)
		}
		if s.guests.Len() != 2 {
			t.Errorf("%d entries", s.guests.Len())
		}
	})
}

func TestHelloBacksOffWhileNobodyAnswers(t *testing.T) {
	world(t, func(t *testing.T) {
		c := &fakeConn{}
		h := NewHome(map[netip.Addr]dgram.Conn{a4: c})
		h.Reach(netip.MustParseAddrPort("127.0.0.1:9"))
		go h.Greet(t.Context())
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if n := len(c.take()); n < 70 || n > 85 {
			t.Errorf("said hello %d times in ten minutes", n)
		}
		if h.Answers(time.Now()) {
			t.Error("nobody has answered")
		}
	})
}

// A hello may end a burst, as the shorter last datagram of it.
func TestAMessageAtTheEndOfABurst(t *testing.T) {
	world(t, func(t *testing.T) {
		s := newSession(t)
		b := tcp(a4, b4, 5, flagACK, nil, pattern(100))
		size := len(b)
		b = append(b, message{kind: hello, id: s.home.id}.append(nil)...)
		_ = s.four.Write(dgram.Burst{Addr: s.port.local, Buf: b, Size: size})
		synctest.Wait()
		if got := s.exposing.take(); len(got) != 1 || len(s.exposed.Stats().Dropped) != 0 {
			t.Errorf("%d packets; %v", len(got), s.exposed.Stats())
		}
	})
}
