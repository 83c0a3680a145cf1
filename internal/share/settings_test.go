package share

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"rendezvous/internal/ops"
)

var local = netip.MustParseAddrPort("127.0.0.1:0")

func parse(t testing.TB, text string) (Config, error) {
	t.Helper()
	var file struct {
		Share Settings `yaml:"share"`
	}
	text = "share:\n  " + strings.ReplaceAll(strings.TrimPrefix(text, "\n"), "\n", "\n  ") // its first line is the second
	source, err := ops.ParseConfig("c.yaml", []byte(text), &file)
	if err != nil {
		t.Fatal(err)
	}
	c, err := file.Share.Parse(source)
	return c, source.Check(err)
}

func TestSettings(t *testing.T) {
	c, err := parse(t, `
inspect: 1s
backends:
  website: {tcp: "127.0.0.1:8443", udp: "127.0.0.1:8443", proxy: true}
  sshd: {tcp: "[::1]:22"}
  crypt: {udp: "127.0.0.1:1194", tcp: "127.0.0.1:1194"}
  plain: {udp: "127.0.0.1:1195"}
tcp:
  - {is: tls, names: [WWW.example.org., "*.example.org"], alpn: h2, to: website}
  - {is: ssh, to: sshd}
  - {is: silence, to: sshd}
  - {is: openvpn, to: crypt}
  - {is: anything, to: website}
udp:
  - {is: openvpn, keys: [tls-crypt, tls-crypt-v2], to: crypt}
  - {is: openvpn, keys: none, to: plain}
  - {is: quic, alpn: [h3], to: website}
  - {is: bytes, at: 2, value: "ab cf", mask: fff0, length: 8-30, to: plain}
  - {is: bytes, at: 2, value: abdf, mask: fff0, length: 8-30, to: plain}
limits: {flows: 7, idle: 1m}
`)
	if err != nil {
		t.Fatal(err)
	}
	if r := c.TCP[0]; !slices.Equal(r.Names, []string{"www.example.org", "*.example.org"}) || !slices.Equal(r.ALPN, []string{"h2"}) {
		t.Errorf("the first rule is %+v", r)
	}
	if s := c.UDP[3].Bytes; s.Min != 8 || s.Max != 30 || !s.matches(append([]byte{9, 9, 0xab, 0xc1}, make([]byte, 9)...)) {
		t.Errorf("the pattern is %+v", s)
	}
	if c.Limits.Flows != 7 || len(c.Backends) != 4 || c.Backends[3].TCP != netip.MustParseAddrPort("127.0.0.1:8443") {
		t.Errorf("got %+v", c)
	}
}

// TestFaults has all that can be wrong, and wants all of it in one message.
func TestFaults(t *testing.T) {
	_, err := parse(t, `
inspect: 1m
backends:
  website: {tcp: "localhost:8443"}
  empty: {}
  sshd: {tcp: "127.0.0.1:22"}
  vpn: {udp: "127.0.0.1:1194", proxy: true}
tcp:
  - {is: tls, names: ["*.example.org"], to: website}
  - {is: tls, names: [www.example.org, "*.a.example.org"], alpn: [h2], to: website}
  - {is: ssh, to: sshd}
  - {is: ssh, to: sshd}
  - {is: telnet, to: sshd}
  - {is: http, to: nowhere}
  - {is: openvpn, to: vpn}
  - {is: silence}
  - {is: http, keys: none, length: "7", names: "a", to: sshd}
  - {is: tls, names: "a*b", to: website}
  - {is: tls, names: [[a]], alpn: "", to: website}
udp:
  - {is: openvpn, keys: [none, tls-auth], to: vpn}
  - {is: openvpn, keys: [tls-crypt, tls-auth], to: vpn}
  - {is: openvpn, keys: none-such, to: vpn}
  - {is: wireguard, to: vpn}
  - {is: bytes, at: 0, value: "01", length: 100-200, to: vpn}
  - {is: bytes, at: 4, value: "0a0b", length: 20-100, to: vpn}
  - {is: bytes, at: 4, value: "0a00", mask: ff00, length: 99-120, to: vpn}
  - {is: bytes, value: "ff", mask: "01", length: 9, to: vpn}
  - {is: bytes, value: "xx", length: 9, to: vpn}
  - {is: bytes, value: "77", to: vpn}
  - {is: bytes, value: "66", mask: "", at: 9, length: 5-8, to: vpn, valeu: "66"}
limits: {flows: -1}
rules: []
`)
	if err == nil {
		t.Fatal("nothing is wrong?")
	}
	want := `c.yaml:2: share.inspect: it is 1m0s, and may be up to 9s
c.yaml:4: share.backends.website.tcp: "localhost:8443" is not IP:PORT
c.yaml:5: share.backends.empty: it has neither tcp nor udp
c.yaml:5: share.backends.empty: no rule leads to it
c.yaml:7: share.backends.vpn.proxy: it is for TCP
c.yaml:10: share.tcp: nothing is left to this rule: line 9 takes all
c.yaml:12: share.tcp: ssh goes by line 11 already
c.yaml:13: share.tcp.is: "telnet" is nothing that is known over TCP
c.yaml:14: share.tcp.to: there is no backend "nowhere"
c.yaml:15: share.tcp.to: backend vpn has no tcp address
c.yaml:16: share.tcp: a rule without to
c.yaml:17: share.tcp.names: it is for [tls quic]
c.yaml:17: share.tcp.keys: it is for [openvpn]
c.yaml:17: share.tcp.length: it is for [bytes]
c.yaml:18: share.tcp.names: "a*b" is neither a name
c.yaml:19: share.tcp.alpn: there is nothing in it
c.yaml:19: share.tcp.names: it is a list
c.yaml:22: share.udp: OpenVPN with keys tls-auth goes by line 21 already
c.yaml:23: share.udp.keys: "none-such" is no way
c.yaml:25: share.udp: some datagrams are bytes and match wireguard on line 24
c.yaml:27: share.udp: the pattern collides with that on line 26
c.yaml:28: share.udp: the pattern looks at 1 bits
c.yaml:29: share.udp.value: "xx" is no bytes
c.yaml:30: share.udp.length: "" is neither
c.yaml:31: share.udp.length: a datagram of 5 bytes ends before the pattern
c.yaml:31: share.udp.valeu: unknown key; known here: alpn,
c.yaml:32: share.limits.flows: it is below 0; 0 takes the default
c.yaml:33: share.rules: unknown key; known here: backends, inspect, limits, tcp, udp`
	got := strings.Split(err.Error(), "\n")
	for _, line := range strings.Split(want, "\n") {
		if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, line) }) {
			t.Errorf("missing: %s", line)
		}
	}
	number := func(fault string) (n int) { _, _ = fmt.Sscanf(fault, "c.yaml:%d:", &n); return n }
	if !slices.IsSortedFunc(got, func(a, b string) int { return number(a) - number(b) }) || number(got[0]) != 2 {
		t.Error("they are not in the order of lines")
	}
	if t.Failed() {
		t.Logf("it says:\n%v", err)
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"www.example.org", "www.example.org", true},
		{"www.example.org", "example.org", false},
		{"*.example.org", "www.example.org", true},
		{"*.example.org", "a.b.example.org", true},
		{"*.example.org", "example.org", false},
		{"*.example.org", "wwwexample.org", false},
		{"*.example.org", ".example.org", false},
	} {
		if got := nameMatches(c.pattern, c.name); got != c.want {
			t.Errorf("%s and %s: %v", c.pattern, c.name, got)
		}
	}
}
