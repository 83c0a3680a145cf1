package faketcp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/path"
)

// website is an HTTPS server on a host, and its listener.
func website(t testing.TB, h *netns.Host, addr string) (net.Listener, *http.Client) {
	t.Helper()
	var listener net.Listener
	// As the coordinator's own is made, so that it has a group.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	}}
	lc.SetMultipathTCP(false)
	err := h.Do(func() (err error) {
		listener, err = lc.Listen(context.Background(), "tcp", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(w, r.Body); err != nil {
			t.Errorf("echo: %v", err)
		}
	}))
	s.Listener.Close()
	s.Listener = listener
	s.StartTLS()
	t.Cleanup(s.Close)
	return listener, s.Client()
}

// from makes a client's connections come from a host.
func from(h *netns.Host, c *http.Client) {
	transport := c.Transport.(*http.Transport)
	transport.DialContext = func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		return conn, errors.Join(err, h.Do(func() error {
			conn, err = new(net.Dialer).DialContext(ctx, network, addr)
			return err
		}))
	}
	transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
}

// echo posts n bytes, has them back, and says how long that took.
func echo(t testing.TB, c *http.Client, url string, n int) time.Duration {
	t.Helper()
	start := time.Now()
	sent := pattern(n)
	answer, err := c.Post(url, "application/octet-stream", bytes.NewReader(sent))
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	got, err := io.ReadAll(answer.Body)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes came back of %d: %v", len(got), n, err)
	}
	return time.Since(start)
}

// One port serves HTTPS by the kernel and fake TCP at the same time; neither
// disturbs the other, and ours are answered with no RST.
func TestBesideAWebsite(t *testing.T) {
	for name, addrs := range families {
		for _, admin := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, CAP_NET_ADMIN %v", name, admin), func(t *testing.T) { besideAWebsite(t, addrs[0], addrs[1], admin) })
		}
	}
}

func besideAWebsite(t *testing.T, addrA, addrB string, admin bool) {
	w := newRoad(t)
	at := netip.AddrPortFrom(netip.MustParseAddr(addrB), 443)
	listener, client := website(t, w.b, at.String())
	from(w.a, client)
	url := "https://" + at.String() + "/"
	const size = 32 << 20
	alone := echo(t, client, url, size)

	b := openAs(t, w.b, admin, addrB, 0, listener)
	if b.local() != at {
		t.Fatalf("stands on %v beside %v", b.local(), at)
	}
	a := open(t, w.a, addrA, 0, nil)
	resets := watch(t, w.b, at)
	send := func(flags uint8, options, payload []byte) {
		t.Helper()
		s := segment{local: a.local(), remote: at, seq: 9, flags: flags, window: 0xff01, options: options}
		if err := a.send(&s, dgram.Burst{Buf: payload, Size: 1000}); err != nil {
			t.Fatal(err)
		}
	}
	send(flagSYN, ourSYN, nil)
	collect(t, b, 1)
	send(flagACK, nil, nil)
	send(flagPSH|flagACK, nil, pattern(20000))
	var all []byte
	for _, r := range collect(t, b, 21) {
		all = append(all, r.bytes...)
	}
	if !bytes.Equal(all, pattern(20000)) {
		t.Errorf("%d bytes came beside the website", len(all))
	}

	if n := resets.count(); n > 0 { // later there may be some of HTTPS connections that end
		t.Errorf("%d RSTs left", n)
	}

	client.CloseIdleConnections()
	beside := echo(t, client, url, size)
	t.Logf("32 MiB and back over HTTPS: %v alone, %v beside fake TCP", alone, beside)
	if beside > 3*alone+time.Second {
		t.Errorf("HTTPS became slow: %v, was %v", beside, alone)
	}
	quiet(t, b)
	if err := b.close(); err != nil {
		t.Fatal(err)
	}
	client.CloseIdleConnections()
	echo(t, client, url, 1000)
}

// quiet fails when anything is waiting to be received: the website's traffic
// should not even reach this program.
func quiet(t testing.TB, d *link) {
	t.Helper()
	_ = d.setReadDeadline(time.Now().Add(20 * time.Millisecond))
	err := d.receive(new(dgram.Arena), func(s *segment, b dgram.Burst) {
		t.Errorf("not ours, yet taken: %+v with %d bytes", *s, len(b.Buf))
	})
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("receive: %v", err)
	}
}

// A listener that no filter can be put on is refused with what to do.
func TestBesideRefusals(t *testing.T) {
	w := newRoad(t)
	listener, _ := website(t, w.b, addrB4+":443")
	for name, c := range map[string]struct {
		beside net.Listener
		port   uint16
	}{
		"no socket":  {tls.NewListener(listener, &tls.Config{}), 0},
		"other port": {listener, 444},
	} {
		err := w.b.Do(func() error {
			d, err := openDevice(netip.AddrPortFrom(netip.MustParseAddr(addrB4), c.port), c.beside)
			if err == nil {
				d.close()
			}
			return err
		})
		if err == nil {
			t.Errorf("%s: is taken", name)
		}
	}
	// What net.Listen makes by default, where the kernel can.
	err := w.b.Do(func() error {
		l, err := net.Listen("tcp", addrB4+":8443")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		d, err := openDevice(netip.MustParseAddrPort(addrB4+":8443"), l)
		if err == nil {
			d.close()
		}
		return err
	})
	if mptcp, _ := os.ReadFile("/proc/sys/net/mptcp/enabled"); string(mptcp) == "1\n" && err == nil {
		t.Error("Multipath TCP: is taken")
	}
}

// A firewall of the host's own that rejects what it does not know lets fake
// TCP be: the segments of the handshake pass it, and it remembers them.
func TestOwnFirewallStaysQuiet(t *testing.T) {
	w := newRoad(t)
	w.a.NFT("table inet strict {\n chain in {\n type filter hook input priority 0; policy drop;\n" +
		" ct state established,related accept\n ct state invalid drop\n meta l4proto icmpv6 accept\n" +
		" meta l4proto tcp reject with tcp reset\n }\n}\n")
	a, b := open(t, w.a, addrA4, 0, nil), open(t, w.b, addrB4, 0, nil)
	resets := watch(t, w.a, a.local())
	step := func(from, to *link, flags uint8, seq, ack uint32, payload []byte) {
		t.Helper()
		s := segment{local: from.local(), remote: to.local(), seq: seq, ack: ack, flags: flags, window: 0xff01}
		if flags&flagSYN != 0 {
			s.options = ourSYN
		}
		burst := dgram.Burst{Buf: payload, Size: 1000}
		if err := from.send(&s, burst); err != nil {
			t.Fatal(err)
		}
		collect(t, to, burst.Len())
	}
	step(a, b, flagSYN, 99, 0, nil)
	step(b, a, flagSYN|flagACK, 499, 100, nil)
	step(a, b, flagACK, 100, 500, nil)
	step(a, b, flagPSH|flagACK, 100, 500, pattern(30000))
	step(b, a, flagPSH|flagACK, 500, 30100, pattern(30000))
	step(a, b, flagACK, 30100, 30500, nil)
	for i := range uint32(20) {
		step(b, a, flagPSH|flagACK, 30500+60000*i, 30100, pattern(60000))
	}
	if n := resets.count(); n > 0 {
		t.Errorf("the firewall sent %d RSTs", n)
	}
}

func TestSelfTest(t *testing.T) {
	netns.Require(t)
	if err := SelfTest(t.Context()); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := SelfTest(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}
}

// The guard's port is taken, and free again at once when its process is
// killed; nothing stays behind.
func TestGuardDiesWithItsProcess(t *testing.T) {
	if os.Getenv("FAKETCP_GUARD") != "" {
		d, err := openDevice(netip.MustParseAddrPort(os.Getenv("FAKETCP_GUARD")), nil)
		if err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("listening\n")
		_ = d.receive(new(dgram.Arena), func(*segment, dgram.Burst) {})
		return
	}
	w := newRoad(t)
	at := addrA4 + ":4433"
	cmd, err := w.a.Command(t.Context(), os.Args[0], "-test.run=^TestGuardDiesWithItsProcess$")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "FAKETCP_GUARD="+at)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	listen := func() error {
		return w.a.Do(func() error {
			l, err := net.Listen("tcp", at)
			if err == nil {
				err = l.Close()
			}
			return err
		})
	}
	if listen() == nil {
		t.Error("the kernel gives the guard's port to another")
	}
	rules := w.a.Run("nft", "list", "ruleset")
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := listen(); err != nil {
		t.Errorf("after kill -9: %v", err)
	}
	if after := w.a.Run("nft", "list", "ruleset"); after != rules {
		t.Errorf("firewall rules changed:\n%s\n%s", rules, after)
	}
	if left := w.a.Run("ss", "-0", "-t", "-a", "-n", "-H"); left != "" {
		t.Errorf("sockets left: %s", left)
	}
}

// Without privilege it is said in words, with the command that helps.
func TestUnprivileged(t *testing.T) {
	if os.Getenv("FAKETCP_UNPRIVILEGED") != "" || os.Geteuid() != 0 {
		_, err := openDevice(netip.MustParseAddrPort("127.0.0.1:0"), nil)
		var f *path.Failure
		if !errors.As(err, &f) || f.Reason != "unprivileged" || !f.Skipped || f.Advice == "" {
			t.Fatalf("%v", err)
		}
		if err := SelfTest(t.Context()); !errors.As(err, &f) || f.Reason != "unprivileged" {
			t.Fatalf("self test: %v", err)
		}
		t.Log(f, f.Advice)
		return
	}
	cmd := exec.Command("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw", os.Args[0], "-test.run=^TestUnprivileged$", "-test.v")
	cmd.Env = append(os.Environ(), "FAKETCP_UNPRIVILEGED=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}
