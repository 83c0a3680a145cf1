package share

import (
	"encoding/hex"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// firsts are first datagrams of OpenVPN 2.6.3 clients, captured 2026-11-21.
var firsts = map[string]struct {
	datagram string
	keys     Keys
}{
	"plain":           {"38034b9e42824fdfe90000000000", NoKeys},
	"tls-auth SHA1":   {"3879b0be26c30e81f4a44abd0a7a1296fab69da4fb2ba7f4b3f8340333000000016b01d1ec0000000000", TLSAuth},
	"tls-auth SHA256": {"38297f7a2df57e3d164a8efe9a493c925847a803fbdf5ccdd232b64288350631b5fb9a97ba41cddce9000000016b01d1f00000000000", TLSAuth},
	"tls-auth SHA512": {"382ec16cab9213821dcbf81b0320baecb65a63a4fe17818344939f6d3d18dbe98d33804da66867aa87cc0f23ae48e7b3c0872218e7cbaaf426dc69d0e57ecdfdb876b664a536" + "aabbcc" + "00000001" + "6b01d1f3" + "0000000000", TLSAuth},
	"tls-crypt":       {"38365d1a5b0c81f19a000000016b01d1f67e47550196f675874ebc400359d3645378c7c8a320bb6785338a61502e4d5078fb45bce241", TLSCrypt},
	"tls-crypt-v2":    {"509d043ea6c7e0b0710f0000016b01d1faa9d14bca16b4de68ee04909e51ebdd7535c2af8c06c859dc161aa67899faf94a38470bcada" + strings.Repeat("5a", 353-54-2) + "012b", TLSCryptV2},
}

// S2-06, S2-08
func TestOpenVPNIsKnownByItsKeys(t *testing.T) {
	for name, f := range firsts {
		d := unhex(t, f.datagram)
		if k, ok := keysOf(d); !ok || k != f.keys {
			t.Errorf("%s, %d bytes: %q, %v", name, len(d), k, ok)
		}
		if _, ok := keysOf(append(d, 0)); ok {
			t.Errorf("%s is known with a byte too many", name)
		}
		d[0] ^= 8
		if _, ok := keysOf(d); ok {
			t.Errorf("%s is known with another opcode", name)
		}
	}
}

func rulesOf(all ...Rule) *datagramRules {
	var t datagramRules
	for _, r := range all {
		t.add(r, &backend{Backend: Backend{Name: r.To}})
	}
	return &t
}

// S2-06, S2-08
func TestFirstDatagrams(t *testing.T) {
	rules := rulesOf(
		Rule{Is: OpenVPN, Keys: []Keys{TLSCrypt, TLSCryptV2}, To: "crypt"},
		Rule{Is: OpenVPN, Keys: []Keys{NoKeys, TLSAuth}, To: "plain"},
		Rule{Is: WireGuard, To: "wg"}, Rule{Is: DTLS, To: "dtls"},
		Rule{Is: Bytes, To: "game", Bytes: Shape{Min: 8, Max: 30, Fields: []Field{{At: 2, Value: []byte{0xab, 0xc0}, Mask: []byte{0xff, 0xf0}}}}},
	)
	pad := func(head string, n int) []byte { return append(unhex(t, head), make([]byte, n-len(head)/2)...) }
	for name, c := range map[string]struct {
		datagram []byte
		want     string
	}{
		"OpenVPN":                   {unhex(t, firsts["plain"].datagram), "plain"},
		"OpenVPN tls-auth":          {unhex(t, firsts["tls-auth SHA256"].datagram), "plain"},
		"OpenVPN tls-crypt":         {unhex(t, firsts["tls-crypt"].datagram), "crypt"},
		"OpenVPN tls-crypt-v2":      {unhex(t, firsts["tls-crypt-v2"].datagram), "crypt"},
		"WireGuard":                 {pad("01000000", 148), "wg"},
		"WireGuard, later":          {pad("04000000", 96), "wg"},
		"WireGuard's keepalive":     {pad("04000000", 32), "wg"},
		"type without the length":   {pad("01000000", 147), ""},
		"length without the type":   {pad("01000001", 148), ""},
		"WireGuard's answer":        {pad("02000000", 92), ""},
		"data of an odd length":     {pad("04000000", 97), ""},
		"DTLS 1.2":                  {pad("16feff 0000 000000000000 0090 01 000084 0000", 157), "dtls"},
		"DTLS, second hello":        {pad("16fefd 0000 000000000001 0090 01 000084 0001", 157), ""},
		"DTLS data":                 {pad("17fefd 0001 000000000001 0090", 157), ""},
		"a pattern":                 {pad("0000abcf", 20), "game"},
		"a pattern, too long":       {pad("0000abcf", 31), ""},
		"a pattern, other bits":     {pad("0000abdf", 20), ""},
		"nothing":                   {nil, ""},
		"OpenVPN's data, two kinds": {pad("48000001", 100), ""},
	} {
		got := ""
		if r := rules.match(c.datagram); r != nil {
			got = r.To
		}
		if got != c.want {
			t.Errorf("%s goes to %q, want %q", name, got, c.want)
		}
	}
	one := rulesOf(Rule{Is: OpenVPN, To: "vpn"})
	for datagram, want := range map[string]bool{"48000001": true, "4f0000ff": true, "48000100": false, "40000001": false} {
		if got := one.match(pad(datagram, 100)); (got != nil) != want {
			t.Errorf("data %s: %v", datagram, got)
		}
	}
}

// TestChance gives random datagrams to each shape: of all lengths, and of those
// that match. What is left to chance is the bits that a shape looks at.
// S2-08
func TestChance(t *testing.T) {
	luck := rand.New(rand.NewPCG(8, 15))
	random := func(b []byte) []byte {
		for i := 0; i < len(b); i += 8 {
			v := luck.Uint64()
			for j := i; j < min(i+8, len(b)); j++ {
				b[j] = byte(v)
				v >>= 8
			}
		}
		return b
	}
	all := map[string][]Shape{"wireguard": wireGuard(), "dtls": dtls(), "openvpn data": openVPNData()}
	for _, k := range allKeys {
		all["openvpn "+string(k)] = openVPN(k)
	}
	rules := rulesOf(Rule{Is: OpenVPN, To: "vpn"}, Rule{Is: WireGuard, To: "wg"}, Rule{Is: DTLS, To: "dtls"})
	buf := make([]byte, 1500)
	const n = 300_000
	matched := 0
	for range n {
		if rules.match(random(buf[:1+luck.IntN(len(buf)-1)])) != nil {
			matched++
		}
	}
	t.Logf("of %d random datagrams of 1 to 1500 bytes %d matched one of all rules", n, matched)
	if matched > 3 { // 0.9e-6 is what OpenVPN's data gives
		t.Error("that is too many")
	}
	for name, shapes := range all {
		for _, s := range shapes {
			first, right := 0, 0
			for range n / 10 {
				d := random(buf[:s.Min+max(s.Step, 1)*luck.IntN(1+(min(s.Max, len(buf))-s.Min)/max(s.Step, 1))])
				if s.matches(d) {
					right++
				}
				d[0], _ = s.Fields[0].at(0) // the worst: the type byte is right as well
				if s.matches(d) {
					first++
				}
			}
			t.Logf("%s, %d to %d bytes: looks at %d bits; by chance 2^-%d of datagrams of a right length; found %d of %d, with a right first byte %d",
				name, s.Min, s.Max, s.bits(), s.bits(), right, n/10, first)
			most := n / 10 * math.Pow(2, -float64(s.bits()-8))
			if s.bits() < 20 || right > 1 || float64(first) > 20+4*most {
				t.Errorf("%s: %d and %d matched", name, right, first)
			}
		}
	}
}

func FuzzShapes(f *testing.F) {
	for _, c := range firsts {
		f.Add(unhex(f, c.datagram))
	}
	rules := rulesOf(Rule{Is: OpenVPN, To: "vpn"}, Rule{Is: WireGuard, To: "wg"}, Rule{Is: DTLS, To: "dtls"})
	f.Fuzz(func(t *testing.T, d []byte) {
		k, ok := keysOf(d)
		if ok != (k != "") {
			t.Errorf("%x: %q, %v", d, k, ok)
		}
		if r := rules.match(d); ok && r == nil {
			t.Errorf("%x is of OpenVPN, and goes nowhere", d)
		}
	})
}

func BenchmarkFirstDatagram(b *testing.B) {
	rules := rulesOf(Rule{Is: OpenVPN, Keys: []Keys{TLSCrypt}, To: "vpn"}, Rule{Is: WireGuard, To: "wg"}, Rule{Is: DTLS, To: "dtls"})
	for name, c := range firsts {
		d := unhex(b, c.datagram)
		b.Run(strings.ReplaceAll(name, " ", "-"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				rules.match(d)
			}
		})
	}
}
