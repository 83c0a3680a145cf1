package faketcp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"
)

var (
	from4 = netip.MustParseAddrPort("192.0.2.1:443")
	to4   = netip.MustParseAddrPort("198.51.100.7:40001")
	from6 = netip.MustParseAddrPort("[2001:db8::1]:443")
	to6   = netip.MustParseAddrPort("[2001:db8:1::2]:40001")
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// headers are both ways: bytes with the checksums computed elsewhere, and
// what they mean.
var headers = []struct {
	name    string
	seg     segment
	id      uint16
	payload string
	packet  string
}{
	{
		name: "IPv4 SYN with options",
		seg: segment{
			local: from4, remote: to4, seq: 0x01020304, flags: flagSYN, window: 0xffff, ttl: 64,
			options: []byte{2, 4, 5, 0x50, 1, 3, 3, 14, 1, 1, 4, 2},
		},
		id: 0x1234,
		packet: `4500 0034 1234 4000 4006 3c54 c0000201 c6336407
			01bb 9c41 01020304 00000000 8002 ffff e12f 0000
			0204 0550 0103 030e 0101 0402`,
	},
	{
		name: "IPv6 data",
		seg: segment{
			local: from6, remote: to6, seq: 0xfffffffe, ack: 0x80000000, flags: flagPSH | flagACK,
			window: 0xff00, urgent: 7, ttl: 3,
		},
		payload: "odd",
		packet: `6000 0000 0017 0603 20010db8000000000000000000000001 20010db8000100000000000000000002
			01bb 9c41 fffffffe 80000000 5018 ff00 63eb 0007
			6f6464`,
	},
}

func TestHeaderBytes(t *testing.T) {
	for _, h := range headers {
		t.Run(h.name, func(t *testing.T) {
			want := unhex(t, h.packet)
			got := appendHeader(nil, &h.seg, h.id, len(h.payload))
			if len(got) != h.seg.headerSize() {
				t.Errorf("%d bytes of header, headerSize says %d", len(got), h.seg.headerSize())
			}
			tcp := len(got) - tcpSize - len(h.seg.options)
			complete(got[tcp:], []byte(h.payload))
			got = append(got, h.payload...)
			if !bytes.Equal(got, want) {
				t.Fatalf("is   %x\nwant %x", got, want)
			}
			checkParse(t, want, &h.seg, h.payload)
		})
	}
}

func checkParse(t *testing.T, packet []byte, want *segment, payload string) {
	t.Helper()
	var s segment
	padded := append(bytes.Clone(packet), 0, 0, 0) // a link's padding
	tcp, begin, end, err := parse(padded, len(padded), &s)
	if err != nil {
		t.Fatal(err)
	}
	if string(padded[begin:end]) != payload {
		t.Errorf("payload %q, want %q", padded[begin:end], payload)
	}
	if s.local != want.remote || s.remote != want.local || s.seq != want.seq || s.ack != want.ack || s.flags != want.flags ||
		s.window != want.window || s.urgent != want.urgent || s.ttl != want.ttl || !bytes.Equal(s.options, want.options) {
		t.Errorf("parsed %+v, want %+v with its ends exchanged", s, *want)
	}
	if !intact(&s, padded[tcp:begin], padded[begin:end]) {
		t.Error("the checksum is called wrong")
	}
	padded[tcp+4] ^= 1
	if intact(&s, padded[tcp:begin], padded[begin:end]) {
		t.Error("a flipped bit goes unnoticed")
	}
}

func TestParseRefuses(t *testing.T) {
	good := unhex(t, headers[0].packet)
	change := func(at int, v byte) []byte {
		b := bytes.Clone(good)
		b[at] = v
		return b
	}
	for name, c := range map[string]struct {
		packet []byte
		want   error
	}{
		"nothing":                  {nil, errShort},
		"half an IP header":        {good[:10], errShort},
		"half a TCP header":        {good[:30], errShort},
		"half of its options":      {good[:45], errShort},
		"neither 4 nor 6":          {change(0, 0x55), errVersion},
		"first fragment":           {change(6, 0x20), errFragment},
		"later fragment":           {change(7, 1), errFragment},
		"UDP":                      {change(9, 17), errNotTCP},
		"short IP header":          {change(0, 0x44), errShort},
		"long IP header":           {change(0, 0x4f), errShort},
		"data offset too small":    {change(32, 0x40), errShort},
		"data offset too large":    {change(32, 0xf0), errShort},
		"longer than the packet":   {change(3, 0x35), errShort},
		"IPv6 with a hop-by-hop":   {append([]byte{0x60, 0, 0, 0, 0, 20, 0, 64}, make([]byte, 60)...), errNotTCP},
		"IPv6 longer than it says": {append([]byte{0x60, 0, 0, 0, 0, 10, 6, 64}, make([]byte, 60)...), errShort},
	} {
		var s segment
		if _, _, _, err := parse(c.packet, len(c.packet), &s); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// FuzzParse gives parse all there is: no panic, offsets in order, and what
// was accepted comes out of appendHeader as it went in.
func FuzzParse(f *testing.F) {
	for _, h := range headers {
		b, _ := hex.DecodeString(strings.Join(strings.Fields(h.packet), ""))
		f.Add(b, 0)
	}
	f.Fuzz(func(t *testing.T, packet []byte, more int) {
		var s segment
		total := len(packet) + max(0, more&0xffff)
		tcp, payload, end, err := parse(packet, total, &s)
		if err != nil {
			return
		}
		if tcp < ip4Size || payload < tcp+tcpSize || payload > len(packet) || end < payload || end > total {
			t.Fatalf("TCP at %d, payload from %d to %d of %d, %d known", tcp, payload, end, total, len(packet))
		}
		back := segment{
			local: s.remote, remote: s.local, seq: s.seq, ack: s.ack, flags: s.flags,
			window: s.window, urgent: s.urgent, options: s.options, ttl: s.ttl,
		}
		built := appendHeader(nil, &back, 0, end-payload)
		var again segment
		_, p, e, err := parse(built, len(built)+end-payload, &again)
		if err != nil {
			t.Fatalf("%x, built of %x: %v", built, packet, err)
		}
		if s.ttl == 0 {
			again.ttl = 0 // it stands for the usual one
		}
		if p != len(built) || e-p != end-payload || !bytes.Equal(again.options, s.options) {
			t.Fatalf("%+v became %+v", s, again)
		}
		s.options, again.options = nil, nil
		if again.local != s.local || again.remote != s.remote || again.seq != s.seq || again.ack != s.ack || again.flags != s.flags {
			t.Fatalf("%+v became %+v", s, again)
		}
	})
}
