package rendezvous

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

func FuzzReadSTUN(f *testing.F) {
	f.Add([]byte("\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes"))
	f.Add([]byte("\x00\x01\x00\x04\x21\x12\xa4\x42twelve bytesmore\x00\x01"))
	f.Add([]byte("\x16\x03\x01\x02\x00\x01\x00"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bufio.NewReaderSize(bytes.NewReader(in), stunHeader+stunMost)
		for rest := in; ; {
			m, err := readSTUN(r)
			if err != nil {
				return
			}
			if len(m) < stunHeader || len(m)%4 != 0 || !bytes.HasPrefix(rest, m) {
				t.Fatalf("read %x of %x", m, rest)
			}
			rest = rest[len(m):]
		}
	})
}

// FuzzFront lets anything come in as the first bytes of a connection: each is
// of one kind, and none is lost by looking at it.
func FuzzFront(f *testing.F) {
	for _, s := range []string{"\x16\x03\x01", "\x00\x01\x00\x00", "GET / HTTP/1.1\r\n\r\n", "SSH-2.0", "\xff", "\x01"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) == 0 {
			return
		}
		near, far := net.Pipe()
		go func() {
			_, _ = near.Write(in)
			_ = near.Close()
		}()
		p := &peeked{Conn: far}
		first, err := p.peek()
		if err != nil || first != in[0] {
			t.Fatalf("peeked %x, %v", first, err)
		}
		kind := classify(first)
		if tlsFirst := in[0] == 22; tlsFirst != (kind == greetsTLS) || kind == greetsSTUN && in[0]&0xc0 != 0 {
			t.Errorf("%x is of kind %d", in[0], kind)
		}
		if all, err := io.ReadAll(p); err != nil || !bytes.Equal(all, in) {
			t.Errorf("read %x, %v", all, err)
		}
	})
}

// TestStrangersGetPages comes with browsers, old and odd clients.
func TestStrangersGetPages(t *testing.T) {
	c := newStreamCoordinator(t)
	for _, alpn := range [][]string{nil, {"http/1.1"}, {"h2"}, {"h2", "http/1.1"}, {"imap"}} {
		conn, err := tls.Dial("tcp", c.tcp(t), &tls.Config{InsecureSkipVerify: true, NextProtos: alpn})
		if err != nil {
			t.Errorf("with ALPN %q: %v", alpn, err)
			continue
		}
		wantPage(t, conn, "/", http.StatusOK)
	}
	for path, want := range map[string]int{"/": http.StatusOK, "/admin": http.StatusNotFound} {
		conn, err := net.Dial("tcp", c.tcp(t))
		if err != nil {
			t.Fatal(err)
		}
		wantPage(t, conn, path, want)
	}
	if _, err := exec.LookPath("curl"); err != nil {
		lacks(t, "curl is not installed")
	}
	for _, url := range []string{"https://" + c.tcp(t), "http://" + c.tcp(t)} {
		out, err := exec.Command("curl", "-sk", "-m", "10", "-w", "%{http_code}", url).CombinedOutput()
		if err != nil || !strings.HasSuffix(string(out), "200") {
			t.Errorf("curl %s: %v: %s", url, err, out)
		}
	}
}

// wantPage asks for a page and wants the connection to end.
func wantPage(t *testing.T, conn net.Conn, path string, want int) {
	t.Helper()
	defer func() { _ = conn.Close() }()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, answer.Body)
	if answer.StatusCode != want || err != nil || !answer.Close {
		t.Errorf("%s: %v, %v", path, answer.Status, err)
	}
	_ = answer.Body.Close()
}

// TestAgentWithoutCertificate asks for the protocol, and shows none.
func TestAgentWithoutCertificate(t *testing.T) {
	c := newStreamCoordinator(t)
	conn, err := tls.Dial("tcp", c.tcp(t), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{ALPNStreams}})
	if err == nil { // a client of TLS 1.3 learns that with its first read
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = conn.Read(make([]byte, 1))
		_ = conn.Close()
	}
	if err == nil || errors.Is(err, io.EOF) {
		t.Errorf("it was let in: %v", err)
	}
	waitFor(t, func() bool { return c.front.drops.handshake.Load() == 1 })
}

// lacks ends a test that can't run here; with CI=true it fails, so that no
// build passes without it.
func lacks(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal("CAN'T RUN: " + what)
	}
	t.Skip("SKIPPED: " + what)
}

func waitFor(t *testing.T, what func() bool) {
	t.Helper()
	for range 200 {
		if what() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Error("it did not come about")
}

// TestSTUNOverTCP asks twice on one connection.
func TestSTUNOverTCP(t *testing.T) {
	c := newStreamCoordinator(t)
	at := c.streams[0].local
	got, conn, err := stun.BindTCP(t.Context(), dgram.SystemStreams(), loopback, at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got.Mapped != dgram.AddrOf(conn.LocalAddr()) {
		t.Errorf("mapped to %v, from %v", got.Mapped, conn.LocalAddr())
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	request := []byte("\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes")
	for _, piece := range bytes.SplitAfter(request, nil) { // byte by byte
		if _, err := conn.Write(piece); err != nil {
			t.Fatal(err)
		}
	}
	answer := make([]byte, 20)
	if _, err := io.ReadFull(conn, answer); err != nil || string(answer[8:]) != "twelve bytes" || answer[0] != 1 {
		t.Errorf("answered %x, %v", answer, err)
	}
	st, err := c.Status()
	if err != nil || st.STUN["answered"] != 2 {
		t.Errorf("status %v, %v", st.STUN, err)
	}
}

// TestHostileTCP sends what is nothing, half of something, or something byte
// by byte. All of it is counted, and agents are served meanwhile.
func TestHostileTCP(t *testing.T) {
	c := newStreamCoordinator(t)
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", c.tcp(t))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	for range 20 {
		dial() // says nothing
	}
	for _, junk := range []string{"\xff\xfe\xfd", "\x16\x03\x01\x00\x05hello", "\x00\x01\xff\xffjunk that is no STUN message at all", "ZZZ\r\n\r\n"} {
		conn := dial()
		if _, err := io.WriteString(conn, junk); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.Copy(io.Discard, conn)
	}
	waitFor(t, func() bool {
		d := &c.front.drops
		return d.unknown.Load() == 1 && d.handshake.Load() == 1 && d.stun.Load() == 1
	})

	// An agent whose ClientHello comes in pieces of one byte.
	slow := &TLSDialer{Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return &crumbs{Conn: conn, left: 2000}, err
	}}
	if err := newGuest(t, "laptop").connectTLS(slow, c.tcp(t), c.pin); err != nil {
		t.Error(err)
	}
	tlsGuest(t, c, "home")
}

// crumbs is a connection that sends its first bytes one by one.
type crumbs struct {
	net.Conn
	left int
}

func (c *crumbs) Write(b []byte) (n int, err error) {
	for n < len(b) {
		size := 1
		if c.left <= 0 {
			size = len(b) - n
		}
		c.left -= size
		m, err := c.Conn.Write(b[n : n+size])
		if n += m; err != nil {
			return n, err
		}
	}
	return n, nil
}

// TestTooManyStreams opens more streams than a connection may have.
func TestTooManyStreams(t *testing.T) {
	c := newStreamCoordinator(t)
	g := newGuest(t, "laptop")
	m, err := straight().dial(t.Context(), c.tcp(t), c.pin, g.certificate())
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * maxStreams {
		if _, err := m.session.OpenStream(); err != nil {
			break
		}
	}
	select {
	case <-m.session.CloseChan():
	case <-time.After(10 * time.Second):
		t.Error("the connection is still open")
	}
	if n := c.front.drops.streams.Load(); n == 0 {
		t.Error("nothing was counted")
	}
}

// TestSlowReaderOverTLS relays more than a leg's agent reads: the oldest is
// lost, the coordinator waits for nobody, and the other agents notice nothing.
func TestSlowReaderOverTLS(t *testing.T) {
	c := newStreamCoordinator(t)
	laptop, home := tlsGuest(t, c, "laptop"), udpGuest(t, c, "home")
	forLaptop, forHome := allocations(t, laptop, home)
	conn, far, err := straight().Relay(t.Context(), c.tcp(t), c.pin, laptop.certificate())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.Write(dgram.One(far, bindOf(forLaptop, 1))); err != nil { // and never reads
		t.Fatal(err)
	}
	waitFor(t, func() bool { return c.relay.Stats().Binds == 1 })
	// The UDP leg's datagrams enter the coordinator where a socket's would.
	udp, err := localNetwork().ListenUDP(loopback)
	if err != nil {
		t.Fatal(err)
	}
	near := readLeg(udp, c.Addrs()[0])
	near.send(t, bindOf(forHome, 1))
	near.wants(t, "bound")
	began := time.Now()
	full := bytes.Repeat([]byte{0xa0}, 1200)
	for range 20_000 {
		if !c.relay.Receive(c.sockets[0].conn, dgram.One(udp.LocalAddr(), full)) {
			t.Fatal("the relay does not know the leg")
		}
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("24 MB took %v", took)
	}
	home.must(&proto.ToCoordinator{})
	_ = udp.Close()
	<-near.done
	_ = conn.Close()
	waitFor(t, func() bool { return c.front.drops.queue.Load() > 0 })
}

// TestTakenPort leaves a port of TCP to the web server that has it, and says
// so.
func TestTakenPort(t *testing.T) {
	web, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = web.Close() }()
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	at := netip.MustParseAddrPort(web.Addr().String())
	c := streamCoordinator(t, registry, loopback, func(c *Config) {
		c.Ports, c.FakeTCP = []uint16{at.Port()}, noFakeTCP{}
	})
	st, err := c.Status()
	if err != nil {
		t.Fatal(err)
	}
	var problems []string
	for _, d := range st.Doors {
		if d.Problem != "" {
			problems = append(problems, d.Transport+": "+d.Problem)
		}
	}
	text := strings.Join(problems, "\n")
	if len(problems) != 2 || !strings.Contains(text, "tcp: listen on TCP "+at.String()+": the port is in use") || !strings.Contains(text, "faketcp: unprivileged; setcap") {
		t.Errorf("the problems are:\n%s", text)
	}
	if n := len(c.Addrs()); n != 2 {
		t.Errorf("listening on %v", c.Addrs())
	}
	tlsGuest(t, c, "home")
}

// noFakeTCP is what a user without the privilege has.
type noFakeTCP struct{}

func (noFakeTCP) ListenFakeTCP(netip.AddrPort, net.Listener) (dgram.Opener, error) {
	return nil, &path.Failure{Reason: "unprivileged", Advice: "setcap", Skipped: true}
}

// TestGate lets so many of a source in, and as many of all.
func TestGate(t *testing.T) {
	g := newGate(5, 3)
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	now := time.Now()
	var leave []func()
	for _, from := range []struct {
		addr netip.Addr
		want bool
	}{
		{one, true}, {one, true}, {one, true}, {one, false},
		{other, true}, {netip.MustParseAddr("2001:db8::2"), true}, {netip.MustParseAddr("2001:db8:1::1"), false},
	} {
		l, ok := g.enter(now, from.addr)
		if ok != from.want {
			t.Errorf("%v: %v", from.addr, ok)
		}
		if ok {
			leave = append(leave, l)
		}
	}
	if open, _ := g.open.Open(); open != 5 || g.refused.Load() != 2 {
		t.Errorf("%d are open, %d were refused", open, g.refused.Load())
	}
	for _, l := range leave {
		l()
	}
	if open, of := g.open.Open(); open != 0 || of != 0 {
		t.Errorf("%d stay open, of %d", open, of)
	}
}
