package rendezvous

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/rs/zerolog"
	"go.yaml.in/yaml/v3"

	"rendezvous/internal/dgram"
	"rendezvous/internal/ops"
	"rendezvous/internal/share"
)

// guestBook is a TCP backend that tells who it is and what it got.
type guestBook struct {
	net.Listener
	name string
}

func newGuestBook(t *testing.T, name string) *guestBook {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &guestBook{l, name}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.WriteString(conn, name+": ")
				_, _ = io.Copy(conn, conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		serving.Wait()
	})
	return g
}

func sharing(t *testing.T, text string) *share.Config {
	t.Helper()
	var s share.Settings
	if err := yaml.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	c, err := s.Parse(new(ops.Source))
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// sharedCoordinator shares its TCP ports with two guest books and one that is
// closed.
func sharedCoordinator(t *testing.T, log io.Writer) *coordinator {
	t.Helper()
	web, ssh, gone := newGuestBook(t, "web"), newGuestBook(t, "ssh"), newGuestBook(t, "gone")
	_ = gone.Close()
	config := sharing(t, fmt.Sprintf(`
inspect: 300ms
backends: {web: {tcp: "%v", proxy: true}, ssh: {tcp: "%v", udp: "127.0.0.1:9"}, gone: {tcp: "%v"}}
tcp:
  - {is: tls, names: "*.example.org", to: web}
  - {is: ssh, to: ssh}
  - {is: silence, to: ssh}
  - {is: openvpn, to: gone}
udp:
  - {is: openvpn, to: ssh}
  - {is: quic, names: "*.example.org", to: ssh}
`, web.Addr(), ssh.Addr(), gone.Addr()))
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	return streamCoordinator(t, registry, loopback, func(c *Config) {
		c.Share = config
		if log != nil {
			c.Log = zerolog.New(log)
		}
	})
}

// say sends the first bytes of a connection and its end, and reads all that
// comes back.
func say(t *testing.T, at, first string) (string, net.Conn, error) {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, first); err != nil {
		t.Fatal(err)
	}
	if first != "" {
		_ = conn.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(conn)
		return string(b), conn, err
	}
	b := make([]byte, 100)
	n, err := conn.Read(b)
	return string(b[:n]), conn, err
}

// Others' connections go to their backends, both ways to the end; a backend that
// is down is a reset, a count, and one line of the log. Agents come by all
// transports meanwhile, and strangers get their page.
// S2-09, S2-10
func TestPortsAreShared(t *testing.T) {
	var log lockedBuffer
	c := sharedCoordinator(t, &log)
	if got, _, err := say(t, c.tcp(t), "SSH-2.0-x\r\nmore"); err != nil || got != "ssh: SSH-2.0-x\r\nmore" {
		t.Errorf("SSH got %q, %v", got, err)
	}
	if got, _, err := say(t, c.tcp(t), ""); err != nil || !strings.HasPrefix(got, "ssh: ") {
		t.Errorf("silence got %q, %v", got, err)
	}
	hello := recordedHello(t, "www.example.org")
	got, conn, err := say(t, c.tcp(t), hello)
	header := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01"
	if err != nil || !strings.HasPrefix(got, "web: "+header) || !strings.HasSuffix(got, hello) {
		t.Errorf("TLS got %q, %v", got, err)
	} else if from := got[len("web: "+header):]; int(from[0])<<8|int(from[1]) != conn.LocalAddr().(*net.TCPAddr).Port {
		t.Errorf("the header names another port: %x", from[:4])
	}
	for range 3 {
		if got, _, err := say(t, c.tcp(t), "\x00\x0e\x38\x03\x4b\x9e\x42\x82\x4f\xdf\xe9\x00\x00\x00\x00\x00"); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a backend that is down gave %q, %v", got, err)
		}
	}
	if n := strings.Count(log.String(), "does not answer over tcp"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log.String())
	}
	st, err := c.Status()
	if err != nil || len(st.Share) != 3 || st.Share[0].Problem == "" || st.Drops["share-tcp-backend"] != 3 || st.Share[1].Total != 2 {
		t.Errorf("status %+v, %v, %v", st.Share, st.Drops, err)
	}
	stranger, err := tls.Dial("tcp", c.tcp(t), &tls.Config{InsecureSkipVerify: true, ServerName: "www.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	wantPage(t, stranger, "/", 200)
	tlsGuest(t, c, "home")
	laptop := newGuest(t, "laptop")
	if err := laptop.connect(t.Context(), localNetwork(), loopback, c.Addrs()[0], c.pin); err != nil {
		t.Fatal(err)
	}
	laptop.join(c.invite(t))
}

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func recordedHello(t *testing.T, name string, alpn ...string) string {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: name, NextProtos: alpn, InsecureSkipVerify: true}).Handshake()
	}()
	b := make([]byte, 16<<10)
	n, err := far.Read(b)
	_, _ = near.Close(), far.Close()
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n])
}

// Connections of others do not take the places of agents.
func TestSharedConnectionsAreCountedApart(t *testing.T) {
	web := newGuestBook(t, "web")
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	config := sharing(t, fmt.Sprintf(`
backends: {web: {tcp: "%v"}}
tcp: [{is: http, to: web}]
limits: {connections_per_source: 4}
`, web.Addr()))
	c := streamCoordinator(t, registry, loopback, func(c *Config) {
		c.Share, c.Limits.ConnectionsPerSource = config, 2
	})
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			_ = conn.Close()
		}
	}()
	for i := range 6 {
		conn, err := net.Dial("tcp", c.tcp(t))
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n")
		first, err := bufio.NewReader(conn).ReadString(':')
		if served := err == nil && first == "web:"; served != (i < 4) {
			t.Errorf("connection %d got %q, %v", i, first, err)
		}
	}
	tlsGuest(t, c, "home")
	if st, err := c.Status(); err != nil || st.Drops["share-tcp-refused"] != 2 {
		t.Errorf("drops %v, %v", st.Drops, err)
	}
}

// A backend that is the coordinator itself would get its own connections for
// ever.
func TestSharingWithItselfIsRefused(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	_ = free.Close()
	registry := testRegistry(t, t.TempDir())
	defer func() { _ = registry.Close() }()
	_, err = New(Config{
		Network: localNetwork(), Streams: dgram.SystemStreams(), Registry: registry, Listen: netip.MustParseAddrPort(at), Alternate: NoAlternate,
		PortConfig: PortConfig{Share: sharing(t, fmt.Sprintf(`{backends: {web: {tcp: "%s"}}, tcp: [{is: http, to: web}]}`, at))},
	})
	if err == nil || !strings.Contains(err.Error(), "where the coordinator itself listens") {
		t.Errorf("got %v", err)
	}
}

func TestConnectionIDsAreKnownAgain(t *testing.T) {
	registry := testRegistry(t, t.TempDir())
	defer func() { _ = registry.Close() }()
	ids, err := newConnIDs(registry.key, "connection IDs")
	if err != nil {
		t.Fatal(err)
	}
	again, err := newConnIDs(registry.key, "connection IDs")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[quic.ConnectionID]bool{}
	for range 1000 {
		id, err := ids.GenerateConnectionID()
		if err != nil || id.Len() != ids.ConnectionIDLen() || seen[id] {
			t.Fatalf("%v, %v", id, err)
		}
		seen[id] = true
		short := append(append([]byte{0x48}, id.Bytes()...), "payload"...)
		long := append(append([]byte{0xe0, 0, 0, 0, 1, idLength}, id.Bytes()...), 0)
		if !again.owns(short) || !again.owns(long) {
			t.Errorf("%x is not known", id.Bytes())
		}
		for i := range idLength {
			short[1+i] ^= 1
			if again.owns(short) {
				t.Errorf("%x is known with byte %d changed", id.Bytes(), i)
			}
			short[1+i] ^= 1
		}
	}
}

// FuzzSurelyOurs takes any datagram.
func FuzzSurelyOurs(f *testing.F) {
	f.Add([]byte{0x40})
	f.Add([]byte{0xc0, 0, 0, 0, 1, idLength})
	f.Add([]byte("\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes"))
	registry := testRegistry(f, f.TempDir())
	f.Cleanup(func() { _ = registry.Close() })
	ids, err := newConnIDs(registry.key, "connection IDs")
	if err != nil {
		f.Fatal(err)
	}
	s := &Server{doorSet: doorSet{ids: ids}, lean: &leanTable{ids: ids}}
	f.Fuzz(func(t *testing.T, d []byte) {
		if s.surelyOurs(d) && d[0]&0x40 != 0 {
			t.Errorf("%x has an ID of ours", d)
		}
	})
}

// What the coordinator serves itself goes to no backend.
func TestOwnProtocols(t *testing.T) {
	registry := testRegistry(t, t.TempDir())
	defer func() { _ = registry.Close() }()
	config, err := streamTLS(registry.key)
	if err != nil {
		t.Fatal(err)
	}
	agents, err := config.GetConfigForClient(&tls.ClientHelloInfo{SupportedProtos: []string{ALPNStreams}})
	if err != nil {
		t.Fatal(err)
	}
	for _, protocol := range append(agents.NextProtos, ALPN) {
		if !slices.Contains(ownProtocols, protocol) {
			t.Errorf("%s is served here, but might go to a backend", protocol)
		}
	}
}
