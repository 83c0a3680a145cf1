package share

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/natlab/bubble"
)

// rules for all that is known over TCP.
const allTCP = `
backends:
  website: {tcp: "127.0.0.1:8443"}
  other: {tcp: "127.0.0.1:8444"}
  plain: {tcp: "127.0.0.1:8080"}
  sshd: {tcp: "127.0.0.1:22"}
  vpn: {tcp: "127.0.0.1:1194"}
  crypt: {tcp: "127.0.0.1:1195"}
  game: {tcp: "127.0.0.1:4000"}
tcp:
  - {is: tls, names: "*.example.org", to: website}
  - {is: tls, alpn: [h2], to: other}
  - {is: http, to: plain}
  - {is: ssh, to: sshd}
  - {is: openvpn, keys: [none, tls-auth], to: vpn}
  - {is: openvpn, keys: [tls-crypt, tls-crypt-v2], to: crypt}
  - {is: bytes, at: 1, value: 52fe, to: game}
`

var testOwn = Own{
	Protocols: []string{"rendezvous/1", "rdv/1"},
	Datagram:  func(d []byte) bool { return bytes.HasPrefix(d, []byte("ours")) },
}

func newSharing(t testing.TB, text string) *Sharing {
	t.Helper()
	c, err := parse(t, text)
	if err != nil {
		t.Fatal(err)
	}
	return New(c, testOwn, nil, nil, zerolog.Nop())
}

// helloBytes is a ClientHello in its record, as a client of the standard library
// sends it.
func helloBytes(t testing.TB, name string, alpn ...string) []byte {
	t.Helper()
	near, far := net.Pipe()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: name, NextProtos: alpn, InsecureSkipVerify: true}).Handshake()
	}()
	buf := make([]byte, 16<<10)
	n, err := far.Read(buf)
	_ = far.Close()
	_ = near.Close()
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// long makes a ClientHello as long as that, by ALPNs that nobody has.
func long(t testing.TB, size int) []byte {
	t.Helper()
	var filler []string
	for n := 0; n < size; n += 101 {
		filler = append(filler, strings.Repeat("x", 100))
	}
	return helloBytes(t, "www.example.org", filler...)
}

func overStream(d []byte) string { return string([]byte{byte(len(d) >> 8), byte(len(d))}) + string(d) }

// streamCases are what connections begin with, and where they go; "" stays.
func streamCases(t testing.TB) map[string]struct{ first, want string } {
	vpn := func(name string) string { return overStream(unhex(t, firsts[name].datagram)) }
	return map[string]struct{ first, want string }{
		"an agent":                 {string(helloBytes(t, "203.0.113.10", "rendezvous/1")), ""},
		"an agent, another's name": {string(helloBytes(t, "www.example.org", "rendezvous/1")), ""},
		"a browser":                {string(helloBytes(t, "www.example.org", "h2", "http/1.1")), "website"},
		"another name":             {string(helloBytes(t, "www.example.com", "h2")), "other"},
		"neither":                  {string(helloBytes(t, "www.example.com", "http/1.1")), ""},
		"SSH":                      {"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", "sshd"},
		"HTTP":                     {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "plain"},
		"HTTP/2":                   {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "plain"},
		"a long method":            {"VERSION-CONTROL /x HTTP/1.1\r\n", "plain"},
		"capitals":                 {"SSSSSSSSSSSSSSSSSSSSSSSS", ""},
		"OpenVPN":                  {vpn("plain"), "vpn"},
		"OpenVPN tls-auth":         {vpn("tls-auth SHA512"), "vpn"},
		"OpenVPN tls-crypt":        {vpn("tls-crypt"), "crypt"},
		"OpenVPN tls-crypt-v2":     {vpn("tls-crypt-v2"), "crypt"},
		"STUN":                     {"\x00\x01\x00\x00\x21\x12\xa4\x42twelve bytes", ""},
		"a pattern":                {"\x99\x52\xfe", "game"},
		"a pattern in a greeting":  {"\x00\x52\xfe\x00", "game"},
		"garbage":                  {"\xff\xfe\xfd\xfc", ""},
		"zeros":                    {strings.Repeat("\x00", 100), ""},
	}
}

// S2-09, S2-10
func TestConnectionsByTheirFirstBytes(t *testing.T) {
	cases := streamCases(t)
	for _, pieces := range []int{1 << 20, 1} {
		for name, c := range cases {
			s := newSharing(t, allTCP)
			look, err := inspectPieces(s, c.first, pieces, time.Second)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if got := destination(look); got != c.want {
				t.Errorf("%s in pieces of %d goes to %q, want %q", name, pieces, got, c.want)
			}
			if !strings.HasPrefix(c.first, string(look.Kept)) {
				t.Errorf("%s: other bytes were kept than came", name)
			}
		}
	}
}

func destination(l Look) string {
	if l.to == nil {
		return ""
	}
	return l.to.Name
}

// inspectPieces sends bytes in pieces and looks at them. The writer stays
// silent behind them.
func inspectPieces(s *Sharing, first string, size int, limit time.Duration) (Look, error) {
	near, far := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for len(first) > 0 {
			n := min(size, len(first))
			if _, err := near.Write([]byte(first[:n])); err != nil {
				return
			}
			first = first[n:]
		}
	}()
	look, err := s.Inspect(far, time.Now().Add(limit))
	_ = far.Close()
	_ = near.Close()
	<-done
	return look, err
}

// Silence goes to its rule after the inspect delay, or to the rule for anything;
// without either it is waited for like before. What is begun and not ended goes
// to the rule for anything when all time is up.
// S2-09
func TestSilence(t *testing.T) {
	const with = `
inspect: 1s
backends: {sshd: {tcp: "127.0.0.1:22"}, rest: {tcp: "127.0.0.1:23"}}
tcp:
  - {is: ssh, to: sshd}
`
	silence, anything := "  - {is: silence, to: sshd}\n", "  - {is: anything, to: rest}\n"
	for _, c := range []struct {
		rules, first, want string
		after              time.Duration
	}{
		{with + silence + anything, "", "sshd", time.Second},
		{with + anything, "", "rest", time.Second},
		{with + strings.Replace(silence, "sshd", "rest", 1), "SS", "error", 10 * time.Second},
		{with + anything, "SS", "rest", 10 * time.Second},
		{with + anything, "\x16\x03\x01\x02\x00\x01\x00\x01", "rest", 10 * time.Second},
		{with + anything, "what?", "rest", 0},
		{with + anything, "GET / HTTP/1.0\r\n\r\n", "rest", 0},
		{strings.Replace(with, "ssh, to: sshd", "ssh, to: rest", 1) + silence, "", "sshd", time.Second},
		{strings.Replace(with, ", rest: {tcp: \"127.0.0.1:23\"}", "", 1), "", "error", 10 * time.Second},
	} {
		bubble.Test(t, func(t *testing.T) {
			if !strings.Contains(c.rules[strings.Index(c.rules, "tcp:\n"):], "rest") {
				c.rules = strings.Replace(c.rules, ", rest: {tcp: \"127.0.0.1:23\"}", "", 1)
			}
			s := newSharing(t, c.rules)
			began := time.Now()
			look, err := inspectPieces(s, c.first, 1, 10*time.Second)
			got := destination(look)
			if err != nil {
				got = "error"
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("%q: %v", c.first, err)
				}
			}
			if took := time.Since(began); got != c.want || took != c.after {
				t.Errorf("%q goes to %q after %v, want %q after %v", c.first, got, took, c.want, c.after)
			}
		})
	}
}

// A ClientHello that is too long, broken, or in many records is bounded, and
// what came is kept for whoever takes anything.
func TestHellosThatAreNone(t *testing.T) {
	const rules = `
backends: {website: {tcp: "127.0.0.1:8443"}, rest: {tcp: "127.0.0.1:23"}}
tcp:
  - {is: tls, names: "*.example.org", to: website}
  - {is: anything, to: rest}
`
	hello := helloBytes(t, "www.example.org")
	var records []byte // one byte in each
	for _, b := range hello[5:] {
		records = append(records, 22, 3, 1, 0, 1, b)
	}
	liar := append([]byte{22, 3, 1, 0x40, 0, 1, 1, 0x86, 0xa0}, make([]byte, 100_000)...)
	for name, c := range map[string]struct {
		first string
		want  string
	}{
		"15 KB":             {string(long(t, 12_000)), "website"},
		"100 KB":            {string(liar), "rest"},
		"100 KB of records": {strings.Repeat("\x16\x03\x01\x00\x01\x01", 20_000), "rest"},
		"an alert":          {"\x16\x03\x01\x00\x05hello", "rest"},
		"another message":   {"\x16\x03\x01\x00\x04\x02\x00\x00\x00", "rest"},
		"an empty record":   {"\x16\x03\x01\x00\x00", "rest"},
		"a record a byte":   {string(records), "website"},
	} {
		for _, size := range []int{1, 1400} {
			s := newSharing(t, rules)
			began := time.Now()
			look, err := inspectPieces(s, c.first, size, 5*time.Second)
			if got := destination(look); err != nil || got != c.want {
				t.Errorf("%s in pieces of %d goes to %q, %v", name, size, got, err)
			}
			if len(look.Kept) > mostHello || !strings.HasPrefix(c.first, string(look.Kept)) {
				t.Errorf("%s: %d bytes were kept", name, len(look.Kept))
			}
			if took := time.Since(began); took > 3*time.Second && c.want == "rest" && name != "an empty record" {
				t.Errorf("%s took %v", name, took)
			}
		}
	}
}

func FuzzGreeting(f *testing.F) {
	for _, c := range streamCases(f) {
		f.Add([]byte(c.first))
	}
	c, err := parse(f, allTCP)
	if err != nil {
		f.Fatal(err)
	}
	s := New(c, testOwn, nil, nil, zerolog.Nop())
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 2000 {
			return
		}
		o := opening{conn: bytes.NewReader(in)}
		if o.fill() != nil {
			return
		}
		v := s.tcp.judge(o.kept, false)
		for v.more {
			if err := o.fill(); err != nil {
				return
			}
			v = s.tcp.judge(o.kept, false)
		}
		if !v.tls && v.to == nil {
			return
		}
		// The verdict stands whatever follows.
		for n := 1; n < len(in); n++ {
			early := s.tcp.judge(in[:n], false)
			if !early.more && (early.to != v.to || early.tls != v.tls) {
				t.Errorf("after %d bytes it goes to %v, after %d to %v", n, early, len(in), v)
			}
		}
		if _, err := readHello(&o); err == nil && !bytes.HasPrefix(in, []byte{22, 3}) {
			t.Errorf("%x is read as a ClientHello", in)
		}
		if !bytes.HasPrefix(in, o.kept) {
			t.Error("other bytes were kept than came")
		}
	})
}

// ready is a connection whose bytes have come already.
type ready struct {
	net.Conn
	io.Reader
}

func (r ready) Read(b []byte) (int, error)      { return r.Reader.Read(b) }
func (r ready) SetReadDeadline(time.Time) error { return nil }

// BenchmarkInspect is what inspecting adds to a new connection, but for the
// waiting: the parts of reading and deciding.
func BenchmarkInspect(b *testing.B) {
	s := newSharing(b, allTCP)
	for name, c := range map[string][]byte{
		"TLS": helloBytes(b, "www.example.org", "h2", "http/1.1"), "agent": helloBytes(b, "203.0.113.10", "rendezvous/1"),
		"SSH": []byte("SSH-2.0-OpenSSH_9.2\r\n"), "OpenVPN": []byte(overStream(unhex(b, firsts["tls-crypt"].datagram))),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Inspect(ready{Reader: bytes.NewReader(c)}, time.Now().Add(time.Second)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
