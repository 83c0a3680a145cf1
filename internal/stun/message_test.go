package stun

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	pion "github.com/pion/stun/v3"
)

// unhex reads hex digits with spaces between them.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The messages of RFC 5769 sections 2.1 to 2.4.
const (
	rfc5769Request = `
		00010058 2112a442 b7e7a701bc34d686fa87dfae
		80220010 5354554e207465737420636c69656e74
		00240004 6e0001ff
		80290008 932ff9b151263b36
		00060009 6576746a3a68367659202020
		00080014 9aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
		80280004 e57a3bcf`
	rfc5769IPv4 = `
		0101003c 2112a442 b7e7a701bc34d686fa87dfae
		8022000b 7465737420766563746f7220
		00200008 0001a147e112a643
		00080014 2b91f599fd9e90c38c7489f92af9ba53f06be7d7
		80280004 c07d4c96`
	rfc5769IPv6 = `
		01010048 2112a442 b7e7a701bc34d686fa87dfae
		8022000b 7465737420766563746f7220
		00200014 0002a1470113a9faa5d3f179bc25f4b5bed2b9d9
		00080014 a382954e4be67bf11784c97c8292c275bfe3ed41
		80280004 c8fb0b4c`
	rfc5769LongTerm = `
		00010060 2112a442 78ad3433c6ad72c029da412e
		00060012 e3839ee38388e383aae38383e382afe382b90000
		0015001c 662f2f3439396b39353464364f4c33346f4c394653547679363473 41
		0014000b 6578616d706c652e6f726700
		00080014 f67024656dd64a3e02b8e0712e85c9a28ca89666`
)

func TestRFC5769Answers(t *testing.T) {
	for _, c := range []struct{ name, message, mapped string }{
		{"2.2 IPv4", rfc5769IPv4, "192.0.2.1:32853"},
		{"2.3 IPv6", rfc5769IPv6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := parse(unhex(t, c.message))
			if err != nil {
				t.Fatal(err)
			}
			o, ok := decode(m, ap("198.51.100.1:3478"))
			if !ok || o.err != nil || o.result.Mapped != ap(c.mapped) {
				t.Errorf("decoded %+v, %v; want mapped %s", o, ok, c.mapped)
			}
		})
	}
}

func TestRFC5769Requests(t *testing.T) {
	r := NewResponder(fourSockets())
	from := ap("198.51.100.2:40000")

	// The first carries ICE's PRIORITY, which a responder must understand or
	// refuse, and a fingerprint, which the answer must have too.
	a, ok := r.Answer(start, Socket{}, from, unhex(t, rfc5769Request))
	if !ok {
		t.Fatal("no answer")
	}
	m, err := parse(a.Message)
	if err != nil {
		t.Fatal(err)
	}
	var unknown pion.UnknownAttributes
	if err := unknown.GetFrom(m); err != nil || m.Type != pion.BindingError || len(unknown) != 1 || unknown[0] != pion.AttrPriority {
		t.Errorf("answered %v with unknown %v (%v); want 420 for PRIORITY", m, unknown, err)
	}
	if !m.Contains(pion.AttrFingerprint) {
		t.Error("the answer has no FINGERPRINT")
	}

	// The second's authentication is beside the point here.
	if a, ok = r.Answer(start, Socket{}, from, unhex(t, rfc5769LongTerm)); !ok {
		t.Fatal("no answer")
	}
	if m, err = parse(a.Message); err != nil || m.Type != pion.BindingSuccess {
		t.Errorf("answered %v, %v; want success", m, err)
	}
}

func TestParseRefuses(t *testing.T) {
	good := unhex(t, rfc5769IPv4)
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for name, b := range map[string][]byte{
		"empty":                 {},
		"19 bytes":              good[:19],
		"cut short":             good[:len(good)-4],
		"too long":              append(bytes.Clone(good), 0, 0, 0, 0),
		"first two bits":        change(func(b []byte) []byte { b[0] |= 0x80; return b }),
		"cookie":                change(func(b []byte) []byte { b[4]++; return b }),
		"length not of words":   change(func(b []byte) []byte { b[3] -= 2; return b[:len(b)-2] }),
		"attribute beyond end":  change(func(b []byte) []byte { b[22] = 0xff; return b }),
		"fingerprint":           change(func(b []byte) []byte { b[len(b)-1]++; return b }),
		"text under fingerprin": change(func(b []byte) []byte { b[24]++; return b }),
	} {
		if m, err := parse(b); err == nil {
			t.Errorf("%s: parsed as %v", name, m)
		}
	}
}

// An XOR-MAPPED-ADDRESS that is too short once made the codec panic.
func TestShortXORMappedAddress(t *testing.T) {
	for size := range 24 {
		for family := range byte(4) {
			value := make([]byte, size)
			for i := range value {
				value[i] = family
			}
			m := newMessage(pion.BindingSuccess, transaction{1})
			m.Add(pion.AttrXORMappedAddress, value)
			parsed, err := parse(m.Raw)
			if err != nil {
				t.Fatal(err)
			}
			if o, ok := decode(parsed, ap("192.0.2.1:1")); ok && o.err == nil {
				t.Errorf("%d bytes %v gave %v", size, value, o.result.Mapped)
			}
		}
	}
}

func TestAddressRoundTrip(t *testing.T) {
	for _, attr := range []pion.AttrType{pion.AttrXORMappedAddress, pion.AttrOtherAddress} {
		for _, want := range []string{"192.0.2.1:1", "255.255.255.255:65535", "[2001:db8::1]:443"} {
			m := newMessage(pion.BindingSuccess, transaction{3, 1, 4})
			addAddress(m, attr, ap(want))
			parsed, err := parse(m.Raw)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := address(parsed, attr); !ok || got != ap(want) {
				t.Errorf("%v: wrote %s, read %v", attr, want, got)
			}
		}
	}
	mapped := netip.AddrPortFrom(netip.MustParseAddr("::ffff:192.0.2.1"), 5)
	m := newMessage(pion.BindingSuccess, transaction{})
	addAddress(m, pion.AttrOtherAddress, mapped)
	if got, _ := address(m, pion.AttrOtherAddress); got != ap("192.0.2.1:5") {
		t.Errorf("an IPv4 address in an IPv6 one came back as %v", got)
	}
}

func TestRequestSize(t *testing.T) {
	for flags := range uint32(8) {
		if n := len(bindingRequest(transaction{}, flags)); n != requestSize {
			t.Errorf("a request with flags %d has %d bytes", flags, n)
		}
	}
}

func TestBehaviourText(t *testing.T) {
	for b := Unknown; b <= AddressAndPortDependent; b++ {
		text, err := b.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var got Behaviour
		if err := got.UnmarshalText(text); err != nil || got != b {
			t.Errorf("%s came back as %v, %v", text, got, err)
		}
	}
	if err := new(Behaviour).UnmarshalText([]byte("symmetric")); err == nil {
		t.Error("symmetric was taken for a behaviour")
	}
	if s := Behaviour(9).String(); s != "behaviour-9" {
		t.Error(s)
	}
}
