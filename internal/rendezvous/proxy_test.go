package rendezvous

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/proto"
)

// testProxy is an HTTP proxy for CONNECT on loopback. want is the credentials
// that it wants, status what it answers to all others; names is its own DNS.
type testProxy struct {
	net.Listener
	want   string
	status int
	extra  string
	names  map[string]string

	mu    sync.Mutex
	asked []string
}

func newProxy(t *testing.T, p *testProxy) *testProxy {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.Listener = l
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		tasks.Wait()
	})
	return p
}

func (p *testProxy) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	r := bufio.NewReader(conn)
	ask, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	p.mu.Lock()
	p.asked = append(p.asked, ask.Method+" "+ask.RequestURI)
	p.mu.Unlock()
	status := p.status
	if user, password, _ := (&http.Request{Header: http.Header{"Authorization": ask.Header["Proxy-Authorization"]}}).BasicAuth(); p.want != "" && user+":"+password != p.want {
		status = http.StatusProxyAuthRequired
	}
	if status != 0 {
		answer := http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1}
		_ = answer.Write(conn)
		return
	}
	to := ask.RequestURI
	if known := p.names[to]; known != "" {
		to = known
	}
	out, err := net.Dial("tcp", to)
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\n\r\n")
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"+p.extra)
	conn.SetDeadline(time.Time{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(out, r)
		_ = out.Close()
	}()
	_, _ = io.Copy(conn, out)
	_ = conn.Close()
	<-done
}

// through is a dialer that goes through a proxy.
func through(user *url.Userinfo, scheme, at string) *TLSDialer {
	d := straight()
	d.Proxy = func(string) (*url.URL, error) { return &url.URL{Scheme: scheme, Host: at, User: user}, nil }
	return d
}

// TestThroughProxy registers and relays through a proxy that alone knows the
// coordinator's name.
func TestThroughProxy(t *testing.T) {
	c := newStreamCoordinator(t)
	p := newProxy(t, &testProxy{want: "me:secret", names: map[string]string{"rdv.example:443": c.tcp(t)}})
	d := through(url.UserPassword("me", "secret"), "http", p.Addr().String())
	laptop := newGuest(t, "laptop")
	if err := laptop.connectTLS(d, "rdv.example:443", c.pin); err != nil {
		t.Fatal(err)
	}
	laptop.join(c.invite(t))
	if laptop.Addr().IsValid() || laptop.Via() != p.Addr().String() || laptop.Transport() != "tls" {
		t.Errorf("connected to %v via %q", laptop.Addr(), laptop.Via())
	}
	laptop.must(&proto.ToCoordinator{})
	home := udpGuest(t, c, "home")
	forLaptop, _ := allocations(t, laptop, home)
	conn, far, err := d.Relay(t.Context(), "rdv.example:443", c.pin, laptop.certificate())
	if err != nil {
		t.Fatal(err)
	}
	leg := readLeg(conn, far)
	leg.send(t, bindOf(forLaptop, 1))
	leg.wants(t, "bound")
	_ = conn.Close()
	<-leg.done
	_ = laptop.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if got := strings.Join(p.asked, ", "); got != "CONNECT rdv.example:443, CONNECT rdv.example:443" {
		t.Errorf("the proxy was asked %s", got)
	}
}

// TestProxyRefuses wants to read what went wrong, and what to do.
func TestProxyRefuses(t *testing.T) {
	c := newStreamCoordinator(t)
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	web := newProxy(t, &testProxy{status: http.StatusForbidden})
	for name, row := range map[string]struct {
		d    *TLSDialer
		want string
	}{
		"forbidden": {through(nil, "http", web.Addr().String()), "proxy " + web.Addr().String() + " answered 403 Forbidden to CONNECT " + c.tcp(t)},
		"no password": {through(nil, "http", newProxy(t, &testProxy{want: "me:secret"}).Addr().String()),
			"answered 407 Proxy Authentication Required to CONNECT"},
		"wrong password": {through(url.UserPassword("me", "guess"), "http", newProxy(t, &testProxy{want: "me:secret"}).Addr().String()),
			"HTTPS_PROXY=http://NAME:PASSWORD@"},
		"can't reach": {through(nil, "http", newProxy(t, &testProxy{names: map[string]string{c.tcp(t): closed.Addr().String()}}).Addr().String()),
			"answered 502 Bad Gateway"},
		"no proxy":      {through(nil, "http", closed.Addr().String()), "is HTTPS_PROXY right?"},
		"a socks proxy": {through(nil, "socks5", web.Addr().String()), "only http and https proxies"},
		"speaks first":  {through(nil, "http", newProxy(t, &testProxy{extra: "hello"}).Addr().String()), "bytes that nobody asked for"},
		"no HTTP":       {through(nil, "http", newJunk(t)), "did not answer CONNECT"},
	} {
		t.Run(name, func(t *testing.T) {
			err := newGuest(t, "laptop").connectTLS(row.d, c.tcp(t), c.pin)
			if err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v\nwant %q in it", err, row.want)
			}
			t.Log(err)
		})
	}
}

// newJunk is a server that speaks no HTTP.
func newJunk(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			_, _ = io.WriteString(conn, "220 mail.example ESMTP\r\n")
			_, _ = conn.Read(make([]byte, 1000))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// TestEnvironmentProxy reads the variables as curl does.
func TestEnvironmentProxy(t *testing.T) {
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "HTTP_PROXY", "http_proxy"} {
		t.Setenv(name, "")
	}
	ask := func(at string) string {
		u, err := environmentProxy(at)
		if err != nil {
			return "error: " + err.Error()
		}
		if u == nil {
			return ""
		}
		return proxyAt(u)
	}
	if got := ask("203.0.113.10:443"); got != "" {
		t.Errorf("without variables: %q", got)
	}
	t.Setenv("HTTPS_PROXY", "http://10.0.0.1:3128")
	t.Setenv("NO_PROXY", "192.0.2.0/24,.corp")
	for at, want := range map[string]string{"203.0.113.10:443": "10.0.0.1:3128", "192.0.2.5:443": "", "vps.corp:443": "", "vps.example:8443": "10.0.0.1:3128"} {
		if got := ask(at); got != want {
			t.Errorf("to %s through %q, want %q", at, got, want)
		}
	}
	t.Setenv("HTTPS_PROXY", "https://proxy.example")
	if got := ask("203.0.113.10:443"); got != "proxy.example:443" {
		t.Errorf("got %q", got)
	}
	t.Setenv("HTTPS_PROXY", "http://%zz")
	if got := ask("203.0.113.10:443"); !strings.Contains(got, "HTTPS_PROXY") {
		t.Errorf("got %q", got)
	}
}

// TestTinyproxy goes through a real proxy, where one is installed.
func TestTinyproxy(t *testing.T) {
	program, err := exec.LookPath("tinyproxy")
	if err != nil {
		lacks(t, "tinyproxy is not installed")
	}
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	_ = free.Close()
	_, port, _ := net.SplitHostPort(at)
	config := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(config, []byte("Listen 127.0.0.1\nPort "+port+"\nTimeout 60\nBasicAuth me secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	run := exec.CommandContext(ctx, program, "-d", "-c", config)
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = run.Wait()
	}()
	waitFor(t, func() bool {
		conn, err := net.Dial("tcp", at)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
	c := newStreamCoordinator(t)
	g := newGuest(t, "laptop")
	if err := g.connectTLS(through(nil, "http", at), c.tcp(t), c.pin); err == nil || !strings.Contains(err.Error(), "answered 407") {
		t.Errorf("without a password: %v", err)
	}
	if err := g.connectTLS(through(url.UserPassword("me", "secret"), "http", at), c.tcp(t), c.pin); err != nil {
		t.Fatal(err)
	}
	g.join(c.invite(t))
	c.stop()
	for range g.Events() {
	}
	if !errors.Is(g.Err(), ErrStopping) {
		t.Errorf("lost by %v", g.Err())
	}
}
