package share

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

var local = netip.MustParseAddrPort("127.0.0.1:0")

func parse(t testing.TB, text string) (Config, error) {
	t.Helper()
	var s Settings
	dec := yaml.NewDecoder(strings.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(&s); err != nil {
		t.Fatal(err)
	}
	return s.Parse()
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
  - {is: bytes, value: "66", mask: "", at: 9, length: 5-8, to: vpn}
limits: {flows: -1}
`)
	if err == nil {
		t.Fatal("nothing is wrong?")
	}
	for _, want := range []string{
		"inspect is 1m0s",
		`line 4: share: backend website: "localhost:8443" is not IP:PORT`,
		"backend empty has neither",
		"line 7: share: backend vpn: proxy is for TCP",
		"line 10: share: nothing is left to this rule: line 9 takes all",
		"line 12: share: ssh goes by line 11 already",
		`line 13: share: "telnet" is nothing that is known over TCP`,
		`line 14: share: there is no backend "nowhere"`,
		"line 15: share: backend vpn has no tcp address",
		"line 16: share: a rule without to",
		"line 17: share: names is for",
		"line 17: share: keys is for",
		"line 17: share: length is for bytes",
		`line 18: share: "a*b" is neither a name`,
		"line 21: share: OpenVPN with keys tls-auth goes by line 20 already",
		`line 22: share: "none-such" is no way`,
		"line 24: share: some datagrams are bytes and match wireguard on line 23",
		"line 26: share: the pattern collides with that on line 25",
		"line 27: share: the pattern looks at 1 bits",
		`line 28: share: value "xx"`,
		`line 29: share: length "" is neither`,
		"line 30: share: a datagram of 5 bytes ends before the pattern",
		"no rule leads to backend empty",
		"limits: none may be negative",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing: %s", want)
		}
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
