package quicflow

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"crypto/x509"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

// side is one end of a flow in a test, and what it saw.
type side struct {
	end      *End
	key      ed25519.PublicKey
	accepted chan *quic.Conn
	rules    atomic.Uint32 // of the last burst sent
	biggest  atomic.Int64
	room     atomic.Int64
	silent   atomic.Bool
	delay    time.Duration // on the way from here
}

// way is how long a datagram takes where time is virtual: QUIC's pace is
// infinite where the round trip is 0.
const way = 5 * time.Millisecond

func newIdentity(t testing.TB) (tls.Certificate, ed25519.PublicKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, public
}

// couple makes both ends of a flow. What one sends, the other gets after delay.
func couple(t testing.TB, delay time.Duration) (a, b *side) {
	t.Helper()
	certA, keyA := newIdentity(t)
	certB, keyB := newIdentity(t)
	a, b = &side{key: keyA, accepted: make(chan *quic.Conn, 8), delay: delay}, &side{key: keyB, accepted: make(chan *quic.Conn, 8), delay: delay}
	a.open(t, certA, b)
	b.open(t, certB, a)
	t.Cleanup(func() { a.close(t); b.close(t) })
	return a, b
}

func (s *side) open(t testing.TB, cert tls.Certificate, other *side) {
	t.Helper()
	s.room.Store(1432)
	var err error
	s.end, err = New(Config{
		Send: func(only path.Kinds, b dgram.Burst) {
			s.rules.Store(uint32(only))
			s.biggest.Store(max(s.biggest.Load(), int64(b.Size)))
			switch {
			case s.silent.Load() || other.end == nil:
			case s.delay == 0:
				other.end.Deliver(b)
			default:
				b.Buf = bytes.Clone(b.Buf)
				time.AfterFunc(s.delay, func() { other.end.Deliver(b) })
			}
		},
		Room:        func(path.Kinds) int { return int(s.room.Load()) },
		Accept:      func(_ path.Kinds, c *quic.Conn) { s.accepted <- c },
		Certificate: cert,
		PeerKey:     func() ed25519.PublicKey { return other.key },
		ResetKey:    quic.StatelessResetKey{1},
		QUIC: func() *quic.Config {
			return &quic.Config{HandshakeIdleTimeout: 5 * time.Second, MaxIdleTimeout: 30 * time.Second, MaxIncomingStreams: 100,
				InitialStreamReceiveWindow: 1 << 20, MaxStreamReceiveWindow: 16 << 20, InitialConnectionReceiveWindow: 2 << 20, MaxConnectionReceiveWindow: 48 << 20}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *side) close(t testing.TB) {
	if s.end != nil {
		_ = s.end.Close()
	}
}

func dial(t testing.TB, s *side, only path.Kinds) Link {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	link, err := s.end.Dial(ctx, only)
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestConnectionCarriesUnderItsRule(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a, b := couple(t, way)
		only := path.KindsOf(path.DirectFakeTCP, path.RelayTLS)
		link := dial(t, a, only)
		if !a.end.Fits(link) {
			t.Error("a new connection does not fit its path")
		}
		far := <-b.accepted
		stream, err := link.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Repeat("some text", 100_000)
		go func() {
			_, _ = io.WriteString(stream, text)
			_ = stream.Close()
		}()
		in, err := far.AcceptStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(in)
		if err != nil || string(got) != text {
			t.Fatalf("%d bytes of %d: %v", len(got), len(text), err)
		}
		if path.Kinds(a.rules.Load()) != only || path.Kinds(b.rules.Load()) != only {
			t.Errorf("sent under %v and %v", path.Kinds(a.rules.Load()), path.Kinds(b.rules.Load()))
		}
		if n := a.biggest.Load(); n > 1432 {
			t.Errorf("a datagram of %d bytes where 1432 cross whole", n)
		}
	})
}

func TestAnotherKeyIsRefused(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, liar := range []string{"who dials", "who answers"} {
			a, b := couple(t, way)
			_, other := newIdentity(t)
			if liar == "who dials" {
				a.key = other // b wants another than a shows
			} else {
				b.key = other
			}
			link, err := a.end.Dial(t.Context(), 0)
			if err == nil { // TLS 1.3: the server refuses after the client is done
				<-link.Context().Done()
				err = context.Cause(link.Context())
			}
			if !strings.Contains(err.Error(), "key") && !strings.Contains(err.Error(), "certificate") {
				t.Errorf("%s: %v", liar, err)
			}
			select {
			case <-b.accepted:
				t.Errorf("%s has another key, and is accepted", liar)
			default:
			}
		}
	})
}

// A peer that was restarted tells at once that the connection is gone.
func TestRestartedPeerResetsConnections(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a, b := couple(t, way)
		link := dial(t, a, 0)
		<-b.accepted
		b.silent.Store(true)
		b.close(t)
		cert, _ := newIdentity(t)
		b.silent.Store(false)
		b.open(t, cert, a)
		began := time.Now()
		s, err := link.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		<-link.Context().Done()
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("noticed after %v: %v", d, context.Cause(link.Context()))
		}
	})
}

func TestMalformedDatagramsAreCounted(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a, _ := couple(t, way)
		a.end.Deliver(dgram.Burst{})
		a.end.Deliver(dgram.One(addrOf(0).AddrPort(), []byte{0}))
		a.end.Deliver(dgram.Burst{Buf: []byte{0, 1, 0}, Size: 2})
		synctest.Wait()
		if n, _ := a.end.Dropped(); n != 3 {
			t.Errorf("%d of 3 are counted", n)
		}
	})
}

func TestInboxIsBounded(t *testing.T) {
	var q inbox
	q.init()
	b := dgram.Burst{Buf: make([]byte, 14520), Size: 1452}
	for range 1000 {
		q.put(b)
	}
	if q.bytes > inboxBytes || q.full.Load() == 0 {
		t.Errorf("%d bytes wait; %d did not fit", q.bytes, q.full.Load())
	}
	buf := make([]byte, 2000)
	n := 0
	for {
		if _, _, ok := q.pop(buf); !ok {
			break
		}
		n++
	}
	if n != inboxBytes/14520*10 || q.bytes != 0 {
		t.Errorf("%d datagrams come out; %d bytes are left", n, q.bytes)
	}
}

// What QUIC sends to find out how large packets may be must not be split by the
// session, or it would find out nothing. A path that became smaller is another
// matter: there packets are split until another connection takes their place.
func TestPacketsFitThePath(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		a, b := couple(t, way)
		a.room.Store(1180) // not known yet
		link := dial(t, a, 0)
		far := <-b.accepted
		move := func(bytes int) {
			s, err := link.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				_, _ = s.Write(make([]byte, bytes))
				_ = s.Close()
			}()
			in, err := far.AcceptStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n, err := io.Copy(io.Discard, in); n != int64(bytes) || err != nil {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
		move(1 << 20)
		time.Sleep(time.Second)
		move(1 << 20)
		if n := a.biggest.Load(); n > 1281 {
			t.Errorf("a datagram of %d bytes where nothing is known", n)
		}
		if a.room.Store(1432); a.end.Fits(link) {
			t.Error("a connection of small packets fits a path of large ones")
		}
		link = dial(t, a, 0)
		far = <-b.accepted
		move(1 << 20)
		time.Sleep(time.Second)
		move(1 << 20)
		if n := a.biggest.Load(); n > 1432 || n < 1400 {
			t.Errorf("a datagram of %d bytes where 1432 cross whole", n)
		}
		if a.room.Store(1300); a.end.Fits(link) {
			t.Error("a connection of large packets fits a path of small ones")
		}
		move(1 << 20)
	})
}

// FuzzDeliver sends anything to an end with a connection.
func FuzzDeliver(f *testing.F) {
	f.Add([]byte{0x3f, 0x40, 1, 2, 3}, uint16(5))
	f.Add(append([]byte{0, 0xc0, 0, 0, 0, 1, 8}, make([]byte, 1300)...), uint16(1300))
	a, _ := couple(f, 0)
	f.Fuzz(func(_ *testing.T, b []byte, size uint16) {
		a.end.Deliver(dgram.Burst{Buf: b, Size: int(size)})
	})
}

func BenchmarkThroughput(b *testing.B) {
	x, y := couple(b, 0)
	link := dial(b, x, 0)
	far := <-y.accepted
	out, err := link.OpenStream()
	if err != nil {
		b.Fatal(err)
	}
	chunk := make([]byte, 64<<10)
	b.SetBytes(int64(len(chunk)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		in, err := far.AcceptStream(context.Background())
		if err == nil {
			buf := make([]byte, 64<<10)
			_, _ = io.CopyBuffer(io.Discard, struct{ io.Reader }{in}, buf)
		}
	}()
	for b.Loop() {
		if _, err := out.Write(chunk); err != nil {
			b.Fatal(err)
		}
	}
	_ = out.Close()
	<-done
}

// Where QUIC writes packets one by one they leave in bursts, each under its own
// rule, and what was written is sent before the end.
func TestPacketsWrittenOneByOneAreGathered(t *testing.T) {
	var sent []string
	started, goOn := make(chan struct{}, 1), make(chan struct{})
	c := newConn(func(only path.Kinds, b dgram.Burst) {
		if len(sent) == 0 {
			started <- struct{}{}
			<-goOn
		}
		sent = append(sent, fmt.Sprint(only, b.Len(), len(b.Buf)))
	})
	write := func(only path.Kinds, size int) {
		if n, err := c.WriteTo(make([]byte, size), addrOf(only)); n != size || err != nil {
			t.Errorf("wrote %d of %d bytes: %v", n, size, err)
		}
	}
	udp := path.KindsOf(path.DirectUDP)
	write(0, 99)
	<-started // the others wait for it
	write(0, 99)
	write(0, 99)
	write(0, 9)
	write(udp, 99)
	close(goOn)
	c.shut()
	if want := []string{fmt.Sprint(path.Kinds(0), 1, 100), fmt.Sprint(path.Kinds(0), 3, 210), fmt.Sprint(udp, 1, 100)}; !slices.Equal(sent, want) {
		t.Errorf("sent %q, want %q", sent, want)
	}
	if _, err := c.WriteTo(make([]byte, 9), addrOf(0)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}
