package portmap

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	ours    = "00000000000000000000ffffc0a80102" // 192.168.1.2
	nonce   = "0102030405060708090a0b0c"
	outside = "00000000000000000000ffffc6336401" // 198.51.100.1
	anybody = "00000000000000000000ffff00000000"
)

// Layouts of RFC 6887 sections 7.1, 7.2, 11.1 and of RFC 6886 section 3.
func TestRequestsOnTheWire(t *testing.T) {
	n := pcpNonce(unhex(t, nonce))
	pc := netip.MustParseAddr("192.168.1.2")
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"pcp announce": {pcpRequest{client: pc, announce: true}.encode(), "02000000 00000000" + ours},
		"pcp map": {pcpRequest{client: pc, lifetime: time.Hour, nonce: n, port: udpPortOf(port), external: netip.AddrPortFrom(netip.Addr{}, port)}.encode(),
			"02010000 00000e10" + ours + nonce + "11000000 9cb0 9cb0" + anybody},
		"pcp renewal": {pcpRequest{client: pc, lifetime: time.Hour, nonce: n, port: udpPortOf(port), external: netip.MustParseAddrPort("198.51.100.1:1234")}.encode(),
			"02010000 00000e10" + ours + nonce + "11000000 9cb0 04d2" + outside},
		"pcp delete": {pcpRequest{client: pc, nonce: n, port: Port{Transport: TCP, Number: 443}}.encode(),
			"02010000 00000000" + ours + nonce + "06000000 01bb 0000" + anybody},
		"pcp pinhole": {pcpRequest{client: netip.MustParseAddr("2001:db8::2"), lifetime: time.Hour, nonce: n, port: Port{Transport: UDP, Number: 443, Six: true}}.encode(),
			"02010000 00000e10" + "20010db8000000000000000000000002" + nonce + "11000000 01bb 0000" + "00000000000000000000000000000000"},
		"nat-pmp address": {pmpRequest{}.encode(), "0000"},
		"nat-pmp map":     {pmpRequest{opcode: pmpMapUDP, internal: port, external: port, lifetime: time.Hour}.encode(), "0001 0000 9cb0 9cb0 00000e10"},
		"nat-pmp delete":  {pmpRequest{opcode: pmpMapTCP, internal: port}.encode(), "0002 0000 9cb0 0000 00000000"},
	} {
		if want := unhex(t, c.want); !bytes.Equal(c.got, want) {
			t.Errorf("%s: %x, want %x", name, c.got, want)
		}
	}
}

func TestAnswersOnTheWire(t *testing.T) {
	head := "02810000 00000078 00000101 000000000000000000000000"
	got, err := decodePCP(unhex(t, head+nonce+"11000000 9cb0 04d2"+outside))
	want := pcpAnswer{opcode: pcpMap, lifetime: 2 * time.Minute, epoch: 257, nonce: pcpNonce(unhex(t, nonce)), proto: UDP,
		internal: port, external: netip.MustParseAddrPort("198.51.100.1:1234")}
	if err != nil || got != want {
		t.Errorf("PCP: %+v, %v; want %+v", got, err, want)
	}
	for name, text := range map[string]string{
		"empty": "", "a request": "02010000 00000078 00000101 000000000000000000000000", "version 3": "03810000 00000078 00000101 000000000000000000000000",
		"no mapping in it": head, "not of words": head + "00", "longer than allowed": head + strings.Repeat("00", 1080),
	} {
		if a, err := decodePCP(unhex(t, text)); err == nil {
			t.Errorf("PCP, %s: %+v", name, a)
		}
	}
	if a, err := decodePCP(unhex(t, "0281000b 00000078 00000101 000000000000000000000000")); err != nil || a.refusal() == nil || codeOf(a.refusal()) != 11 {
		t.Errorf("PCP, a short refusal: %+v, %v", a, err)
	}

	pmp, err := decodePMP(unhex(t, "0080 0000 00000101 c6336401"))
	if wantPMP := (pmpAnswer{epoch: 257, address: netip.MustParseAddr(wan)}); err != nil || pmp != wantPMP {
		t.Errorf("NAT-PMP: %+v, %v", pmp, err)
	}
	pmp, err = decodePMP(unhex(t, "0081 0000 00000101 9cb0 04d2 00000e10"))
	if wantPMP := (pmpAnswer{opcode: pmpMapUDP, epoch: 257, internal: port, external: 1234, lifetime: time.Hour}); err != nil || pmp != wantPMP {
		t.Errorf("NAT-PMP: %+v, %v", pmp, err)
	}
	for name, text := range map[string]string{"empty": "", "a request": "0001 0000 9cb0 9cb0 00000e10", "version 1": "0180 0000 00000101 c6336401",
		"no address": "0080 0000 00000101", "half a mapping": "0081 0000 00000101 9cb0 04d2", "opcode 3": "0083 0000 00000101 9cb0 04d2 00000e10"} {
		if a, err := decodePMP(unhex(t, text)); err == nil {
			t.Errorf("NAT-PMP, %s: %+v", name, a)
		}
	}
	if a, err := decodePMP(unhex(t, "0081 0002 00000101")); err != nil || codeOf(a.refusal()) != 2 {
		t.Errorf("NAT-PMP, a short refusal: %+v, %v", a, err)
	}
}

func TestSearchAnswers(t *testing.T) {
	const igd = "ST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n"
	u, err := decodeSSDP([]byte("HTTP/1.1 200 OK\r\n" + igd + "Location: http://192.168.1.1:5000/x.xml\r\n\r\n"))
	if err != nil || u.String() != "http://192.168.1.1:5000/x.xml" {
		t.Errorf("%v, %v", u, err)
	}
	for name, c := range map[string]struct {
		location string
		ok       bool
	}{
		"its own": {"http://192.168.1.1/", true}, "its own, mapped": {"http://[::ffff:192.168.1.1]:80/", true},
		"another's": {"http://192.168.1.2/", false}, "a name": {"http://router/", false}, "TLS": {"https://192.168.1.1/", false},
		"nothing": {"", false}, "a port too many": {"http://192.168.1.1:99999/", false}, "with a user": {"http://192.168.1.1@192.168.1.2/", false},
		"not so clever": {"http://192.168.1.1.example/", false}, "octal": {"http://0300.0250.1.1/", false},
	} {
		u, err := url.Parse(c.location)
		if err == nil {
			_, err = onGateway(u, netip.MustParseAddr(lanGW))
		}
		if (err == nil) != c.ok {
			t.Errorf("%s: %q: %v", name, c.location, err)
		}
	}
}

func TestEpoch(t *testing.T) {
	type show struct {
		after time.Duration
		clock uint32
		lost  bool
	}
	for name, shows := range map[string][]show{
		"in step":            {{0, 1000, false}, {time.Minute, 1060, false}, {time.Hour, 4660, false}},
		"a sixteenth faster": {{0, 1000, false}, {1600 * time.Second, 2700, false}},
		"much faster":        {{0, 1000, false}, {1600 * time.Second, 2800, true}},
		"much slower":        {{0, 1000, false}, {1600 * time.Second, 2400, true}},
		"began anew":         {{0, 1000, false}, {time.Minute, 10, true}, {time.Minute, 70, false}},
		"stands still":       {{0, 0, false}, {time.Second, 0, false}, {time.Minute, 0, true}},
		"a second back":      {{0, 1000, false}, {0, 999, false}},
		"goes round":         {{0, 1<<32 - 1, false}, {time.Minute, 59, true}},
	} {
		var e epoch
		now := time.Unix(1e9, 0)
		for i, s := range shows {
			now = now.Add(s.after)
			if lost := e.lost(now, s.clock); lost != s.lost {
				t.Errorf("%s: show %d: lost %v, want %v", name, i, lost, s.lost)
			}
		}
	}
}

func TestLeaseTimes(t *testing.T) {
	now := time.Unix(1e9, 0)
	for name, c := range map[string]struct {
		g                 grant
		chance            float64
		wantRenew, wanted time.Duration
	}{
		"an hour":             {grant{lease: time.Hour}, 0, 30 * time.Minute, time.Hour},
		"an hour, up to":      {grant{lease: time.Hour}, 1, 27 * time.Minute, time.Hour},
		"a day":               {grant{lease: 24 * time.Hour}, 0, 30 * time.Minute, time.Hour},
		"for ever by seconds": {grant{lease: seconds(1<<32 - 1)}, 0, 30 * time.Minute, time.Hour},
		"for ever":            {grant{permanent: true}, 0, 30 * time.Minute, time.Hour},
		"two minutes":         {grant{lease: 2 * time.Minute}, 0, time.Minute, 2 * time.Minute},
		"none":                {grant{}, 0, 15 * time.Second, 30 * time.Second},
	} {
		renew, ends := leaseTimes(now, c.g, c.chance)
		if renew.Sub(now) != c.wantRenew || ends.Sub(now) != c.wanted {
			t.Errorf("%s: renewed after %v, believed in for %v", name, renew.Sub(now), ends.Sub(now))
		}
	}
}

func TestRoads(t *testing.T) {
	host := func(name, p string) dgram.HostAddr {
		return dgram.HostAddr{Interface: name, Addr: netip.MustParsePrefix(p), Up: true}
	}
	four, six := Gateway{netip.MustParseAddr(lanGW), "eth0"}, Gateway{netip.MustParseAddr("fe80::1%eth0"), "eth0"}
	down := host("eth0", "192.168.1.2/24")
	down.Up = false
	for name, c := range map[string]struct {
		gateways []Gateway
		addrs    []dgram.HostAddr
		want     []string
	}{
		"a home":              {[]Gateway{four, six}, []dgram.HostAddr{host("lo", "127.0.0.1/8"), host("eth0", "192.168.1.2/24"), host("eth0", "fe80::2/64"), host("eth0", "2001:db8::2/64")}, []string{lanPC, "2001:db8::2"}},
		"none":                {nil, []dgram.HostAddr{host("eth0", "192.168.1.2/24")}, nil},
		"public":              {[]Gateway{{netip.MustParseAddr("203.0.113.1"), "eth0"}}, []dgram.HostAddr{host("eth0", "203.0.113.10/24")}, nil},
		"another interface":   {[]Gateway{four}, []dgram.HostAddr{host("eth1", "192.168.1.2/24")}, nil},
		"down":                {[]Gateway{four}, []dgram.HostAddr{down}, nil},
		"we are the gateway":  {[]Gateway{four}, []dgram.HostAddr{host("eth0", "192.168.1.1/24")}, nil},
		"not in its network":  {[]Gateway{four}, []dgram.HostAddr{host("eth0", "10.0.0.2/24")}, nil},
		"behind a carrier":    {[]Gateway{{netip.MustParseAddr("100.64.0.1"), ""}}, []dgram.HostAddr{host("eth0", "100.64.0.2/24")}, []string{"100.64.0.2"}},
		"local and global":    {[]Gateway{six}, []dgram.HostAddr{host("eth0", "fd00::2/64"), host("eth0", "2001:db8::2/64"), host("eth0", "2001:db8::3/64"), host("eth0", "2001:db8::4/64")}, []string{"2001:db8::2", "2001:db8::3"}},
		"unique local, NAT66": {[]Gateway{six}, []dgram.HostAddr{host("eth0", "fd00::2/64")}, []string{"fd00::2"}},
	} {
		var got []string
		for _, r := range roads(c.gateways, c.addrs) {
			got = append(got, r.source.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: from %v, want %v", name, got, c.want)
		}
	}
}

// SystemGateways must work wherever this is tested; a host without a default
// route has none.
func TestSystemGateways(t *testing.T) {
	all, err := SystemGateways()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range all {
		if !g.Addr.IsValid() || g.Addr.IsUnspecified() || g.Interface == "" {
			t.Errorf("got %+v", g)
		}
	}
}

func FuzzDecodePCP(f *testing.F) {
	f.Add(unhex(f, "02810000 00000078 00000101 000000000000000000000000"+nonce+"11000000 9cb0 04d2"+outside))
	f.Add(unhex(f, "02800000 00000000 00000101 000000000000000000000000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodePCP(b)
		if err != nil || a.opcode != pcpMap || a.result != 0 {
			return
		}
		g := grant{external: a.external, lease: a.lifetime}
		if g.check(PCP, false) == nil && (!a.external.Addr().Is4() || a.external.Port() == 0 || !a.external.Addr().IsGlobalUnicast()) {
			t.Errorf("%v passes for an external address", a.external)
		}
	})
}

func FuzzDecodePMP(f *testing.F) {
	f.Add(unhex(f, "0080 0000 00000101 c6336401"))
	f.Add(unhex(f, "0081 0000 00000101 9cb0 04d2 00000e10"))
	f.Add(unhex(f, "0082 0002 00000101"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if a, err := decodePMP(b); err == nil {
			_ = a.refusal()
		}
	})
}

func FuzzDecodeSSDP(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nST: " + igdTypes[0] + "\r\nLocation: http://192.168.1.1:5000/x.xml\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		gateway := netip.MustParseAddr(lanGW)
		u, err := decodeSSDP(b)
		if err != nil {
			return
		}
		if to, err := onGateway(u, gateway); err == nil && to.Addr() != gateway {
			t.Errorf("%v leads to %v", u, to)
		}
	})
}

func FuzzDecodeDescription(f *testing.F) {
	f.Add([]byte(describedAt("/ctl")))
	f.Add([]byte(strings.Replace(describedAt("ctl"), "<root>", `<?xml version="1.0" encoding="windows-1252"?><root><URLBase>http://192.168.1.1:5000/a/</URLBase>`, 1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		found, err := decodeDescription(bytes.NewReader(b), &url.URL{Scheme: "http", Host: lanGW})
		if err == nil && (len(found) == 0 || len(found) > maxServices) {
			t.Errorf("%d services", len(found))
		}
	})
}

func FuzzDecodeFields(f *testing.F) {
	f.Add([]byte("<a><NewExternalIPAddress>198.51.100.1</NewExternalIPAddress><errorCode>718</errorCode></a>"))
	f.Fuzz(func(t *testing.T, b []byte) {
		found, err := decodeFields(bytes.NewReader(b), "NewExternalIPAddress", "errorCode")
		for name, text := range found {
			if err == nil && len(text) > maxText {
				t.Errorf("%s has %d bytes", name, len(text))
			}
		}
	})
}
