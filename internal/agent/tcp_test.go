package agent

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
)

// Where tests put a TCP service and the local end of its dial.
const (
	webAt   = "127.0.0.1:8080"
	webTo   = "127.0.0.1:8081"
	webName = "web"
)

// serveTCP has a service on a host give each connection to serve.
func serveTCP(t *testing.T, host *natlab.Host, at string, serve func(net.Conn)) {
	t.Helper()
	ln, err := host.ListenTCP(netip.MustParseAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				serve(c)
				_ = c.Close()
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); wait.Wait() })
}

// echoTCP gives back what comes, and ends when the client does.
func echoTCP(c net.Conn) {
	_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
	_ = c.(interface{ CloseWrite() error }).CloseWrite()
}

// tcpPair is a pair with a TCP service beside the one for datagrams.
func tcpPair(t *testing.T, serve func(net.Conn), exposed, dialed string, homeConfig, roadConfig func(*Config)) *pair {
	t.Helper()
	return newPair(t, natlab.Home(), func(p *pair) { serveTCP(t, p.home, webAt, serve) },
		all(homeConfig, exposing(t, webName, "tcp://"+webAt+exposed)), all(roadConfig, dialing(t, "home", webName, "tcp://"+webTo+dialed)))
}

// call connects a client on the laptop.
func (p *pair) call(t *testing.T) net.Conn {
	t.Helper()
	c, err := p.road.DialTCP(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort(webTo))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{7})
	_, _ = r.Read(b)
	return b
}

// pumped is a transfer through a dial under way: what is sent comes back.
type pumped struct {
	sent, got int
	sum       [32]byte
	longest   time.Duration // without a byte
	err       error
	done      chan struct{}
}

// pace is that of transfers under which something changes, in bytes a second:
// always something is on its way, and little else costs the test time.
const pace = 128 << 10

// pump sends b at a pace of at most rate bytes a second, in pieces of 1 to 16
// KiB, and reads the echo.
func pump(c net.Conn, b []byte, rate int) *pumped {
	p := &pumped{done: make(chan struct{})}
	go func() {
		piece := max(1<<10, min(16<<10, rate/16))
		for rest := b; len(rest) > 0; {
			n, err := c.Write(rest[:min(piece, len(rest))])
			if err != nil {
				return
			}
			p.sent += n
			rest = rest[n:]
			time.Sleep(time.Duration(n) * time.Second / time.Duration(rate))
		}
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
	}()
	go func() {
		defer close(p.done)
		h := sha256.New()
		buf := make([]byte, 64<<10)
		for last := time.Now(); p.err == nil; {
			var n int
			n, p.err = c.Read(buf)
			h.Write(buf[:n])
			p.got += n
			p.longest = max(p.longest, time.Since(last))
			last = time.Now()
		}
		h.Sum(p.sum[:0])
	}()
	return p
}

// check waits for the end of a transfer.
func (u *pumped) check(t *testing.T, b []byte, stall time.Duration) {
	t.Helper()
	<-u.done
	if !errors.Is(u.err, io.EOF) || u.sum != sha256.Sum256(b) {
		t.Errorf("%d bytes of %d came back, and ended with %v", u.got, len(b), u.err)
	}
	t.Logf("the longest pause was %v", u.longest)
	if u.longest > stall {
		t.Errorf("nothing came for %v", u.longest)
	}
}

// direct waits until data goes directly.
func (p *pair) direct(t *testing.T) {
	t.Helper()
	waitFor(t, "a direct path", 20*time.Second, func() bool {
		return best(p.laptop, "home") == "direct-udp" && best(p.far, "laptop") == "direct-udp"
	})
}

// A request and its answer, from nothing: the session is made for it.
func TestConnectionReachesService(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := tcpPair(t, echoTCP, "", "", nil, nil)
		began := time.Now()
		c := p.call(t)
		text := strings.Repeat("a line\n", 1000)
		go func() {
			_, _ = io.WriteString(c, text)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || string(got) != text {
			t.Fatalf("%d bytes of %d came back: %v", len(got), len(text), err)
		}
		d := time.Since(began)
		t.Logf("answered after %v", d)
		if d > 2*time.Second {
			t.Errorf("it took %v", d)
		}
		st := p.laptop.Status()
		if len(st.Dials) != 2 || st.Dials[1].Listen != "tcp://"+webTo {
			t.Errorf("status: %+v", st.Dials)
		}
	})
}

// The path moves in the middle of a transfer: from the relay to the direct one,
// back when that is lost, and to another when it heals.
func TestTransferSurvivesMoves(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := tcpPair(t, echoTCP, "", "", nil, nil)
		c := p.call(t)
		b := noise(24 * pace)
		u := pump(c, b, pace)
		p.direct(t)
		time.Sleep(2 * time.Second)
		p.cafe.Block(func(_, to netip.AddrPort, _ []byte) bool { return to.Addr() == netip.MustParseAddr("198.51.100.1") })
		waitFor(t, "the relay", 10*time.Second, func() bool { return strings.HasPrefix(best(p.laptop, "home"), "relay") })
		time.Sleep(3 * time.Second)
		p.cafe.Block(nil)
		p.direct(t)
		u.check(t, b, 2*time.Second)
		waitFor(t, "the service counts no connection any more", time.Second, func() bool { return p.far.Status().Services[0].Flows == 0 })
	})
}

// What takes the best path takes the next best one with it: data must not wait
// until that one is known to be dead too.
func TestTransferSurvivesTheLossOfTwoPathsAtOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := tcpPair(t, echoTCP, "", "", exposing(t, "fake", "udp://"+ruledAt+"?paths=direct-faketcp"), dialing(t, "home", "fake", "udp://"+ruledTo))
		listen(t, p.home, ruledAt, true)
		other := listen(t, p.road, "127.0.0.1:0", false)
		s := startStream(other, ruledTo, 50*time.Millisecond)
		defer s.end()
		c := p.call(t)
		b := noise(16 * pace)
		u := pump(c, b, pace)
		p.direct(t)
		fake := path.KindsOf(path.DirectFakeTCP)
		waitFor(t, "fake TCP beside", 20*time.Second, func() bool {
			return p.laptop.peer("home").association().Serves(fake) && p.far.peer("laptop").association().Serves(fake)
		})
		time.Sleep(time.Second)
		p.cafe.Block(func(_, to netip.AddrPort, _ []byte) bool { return to.Addr() == netip.MustParseAddr("198.51.100.1") })
		u.check(t, b, 1500*time.Millisecond)
		if now := best(p.laptop, "home"); !strings.HasPrefix(now, "relay") {
			t.Errorf("data takes %s", now)
		}
	})
}

// Either direction of a connection may end before the other.
func TestHalfClose(t *testing.T) {
	ends := map[string]struct {
		serve, client func(t *testing.T, c net.Conn)
	}{
		"the client ends first": {func(_ *testing.T, c net.Conn) {
			b, _ := io.ReadAll(c)
			time.Sleep(5 * time.Second)
			_, _ = c.Write(b)
		}, func(t *testing.T, c net.Conn) {
			_, _ = io.WriteString(c, "hello")
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
		}},
		"the service ends first": {func(t *testing.T, c net.Conn) {
			_, _ = io.WriteString(c, "hello")
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			if b, err := io.ReadAll(c); string(b) != "more" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
		}, func(t *testing.T, c net.Conn) {
			if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
				t.Errorf("%q, %v", b, err)
			}
			time.Sleep(5 * time.Second)
			if _, err := io.WriteString(c, "more"); err != nil {
				t.Error(err)
			}
			_ = c.Close()
		}},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				p := tcpPair(t, func(c net.Conn) { end.serve(t, c) }, "", "", nil, nil)
				end.client(t, p.call(t))
				waitFor(t, "no connection is left", 2*time.Second, func() bool {
					return p.far.peer("laptop").tcp.live()+p.laptop.peer("home").tcp.live() == 0
				})
			})
		})
	}
}

// A service that does not read holds its client up, and neither agent's memory
// grows; all arrives when it reads.
func TestSlowReaderIsBackpressure(t *testing.T) {
	virtual(t, func(t *testing.T) {
		read := make(chan struct{})
		var got bytes.Buffer
		p := tcpPair(t, func(c net.Conn) {
			<-read
			_, _ = io.Copy(&got, c)
		}, "", "", nil, nil)
		c := p.call(t)
		b := noise(25 << 20)
		_ = c.SetWriteDeadline(time.Now().Add(30 * time.Second))
		n, err := c.Write(b)
		if err == nil || n > 24<<20 {
			t.Errorf("%d bytes were taken: %v", n, err)
		}
		t.Logf("%d KiB were taken", n>>10)
		close(read)
		_ = c.(interface{ CloseWrite() error }).CloseWrite()
		if rest, err := io.ReadAll(c); err != nil || len(rest) > 0 {
			t.Errorf("%d bytes, %v", len(rest), err)
		}
		if !bytes.Equal(got.Bytes(), b[:n]) {
			t.Errorf("%d bytes of %d arrived, or others", got.Len(), n)
		}
	})
}

// An agent that is restarted has lost its connections: both ends hear so at
// once, and new ones work.
func TestRestartEndsConnections(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := tcpPair(t, echoTCP, "", "", nil, nil)
		c := p.call(t)
		if _, err := io.WriteString(c, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		p.direct(t)
		state := p.far.cfg.State
		p.far.stop()
		began := time.Now()
		p.far = p.run(p.home, state, all(everything(p.home), exposing(t, webName, "tcp://"+webAt)))
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the client sees %v", err)
		}
		t.Logf("reset after %v", time.Since(began))
		if d := time.Since(began); d > 15*time.Second {
			t.Errorf("reset after %v", d)
		}
		c = p.call(t)
		b := noise(pace)
		pump(c, b, pace).check(t, b, 10*time.Second)
	})
}

// A peer that was killed says no goodbye, and its next run knows nothing. The
// client is told as soon as that run answers.
func TestKilledPeerEndsConnections(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := tcpPair(t, echoTCP, "", "", nil, nil)
		c := p.call(t)
		p.direct(t)
		state := p.far.cfg.State
		p.carrier.Block(func(_, _ netip.AddrPort, _ []byte) bool { return true })
		p.far.stop()
		p.carrier.Block(nil)
		began := time.Now()
		p.far = p.run(p.home, state, all(everything(p.home), exposing(t, webName, "tcp://"+webAt)))
		var err error
		for err == nil {
			_, err = io.WriteString(c, "x")
			time.Sleep(500 * time.Millisecond)
		}
		t.Logf("%v after %v", err, time.Since(began))
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("the client is told after %v: %v", d, err)
		}
		b := noise(pace)
		pump(p.call(t), b, pace).check(t, b, 5*time.Second)
	})
}

// Both members dial each other's services, at the same instant and with no
// session yet.
func TestBothSidesDialAtOnce(t *testing.T) {
	virtual(t, func(t *testing.T) {
		p := newPair(t, natlab.Home(), func(p *pair) {
			serveTCP(t, p.home, webAt, echoTCP)
			serveTCP(t, p.road, webAt, echoTCP)
		}, all(exposing(t, webName, "tcp://"+webAt), dialing(t, "laptop", webName, "tcp://"+webTo)),
			all(exposing(t, webName, "tcp://"+webAt), dialing(t, "home", webName, "tcp://"+webTo)))
		b := noise(256 << 10)
		there, err := p.home.DialTCP(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort(webTo))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = there.Close() }()
		here := p.call(t)
		u, v := pump(here, b, pace), pump(there, b, pace)
		u.check(t, b, 2*time.Second)
		v.check(t, b, 2*time.Second)
	})
}
