package icmp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"

	"rendezvous/internal/checksum"
)

var waiting = netip.MustParseAddr("198.51.100.1")

func TestMessages(t *testing.T) {
	if got := hex.EncodeToString(AppendEcho(nil)); got != "0800859b72640000" {
		t.Errorf("echo %s", got)
	}
	m := AppendExceeded([]byte("before"), waiting, []byte("data"))[len("before"):]
	const want = "0b000000000000004500002000000000010100000000000000000000"
	if len(m) != headerSize+ipSize+headerSize+4 || hex.EncodeToString(m[4:8]) != want[8:16] || hex.EncodeToString(m[8:18]) != want[16:36] {
		t.Errorf("exceeded %x", m)
	}
	for name, part := range map[string][]byte{"all": m, "quoted IP header": m[headerSize : headerSize+ipSize], "quoted echo": m[headerSize+ipSize:]} {
		if checksum.Fold(checksum.Sum(0, part)) != 0xffff {
			t.Errorf("the checksum of %s is wrong: %x", name, part)
		}
	}
	got, err := ParseExceeded(m)
	if err != nil || string(got) != "data" {
		t.Errorf("%q, %v", got, err)
	}
}

// changed is a message with one change and a right checksum.
func changed(m []byte, at int, to byte) []byte {
	m = bytes.Clone(m)
	m[at] = to
	seal(m)
	return m
}

func TestStrangeMessages(t *testing.T) {
	m := AppendExceeded(nil, waiting, []byte("data"))
	for name, c := range map[string]struct {
		m    []byte
		want error
	}{
		"empty":              {nil, ErrForm},
		"cut off":            {changed(m[:headerSize+ipSize+4], 0, typeExceeded), ErrForm},
		"bad checksum":       {append(bytes.Clone(m[:len(m)-1]), 0), ErrForm},
		"an echo":            {AppendEcho(make([]byte, 0, 64))[:8], ErrForm},
		"unreachable":        {changed(m, 0, 3), ErrOther},
		"fragments expired":  {changed(m, 1, 1), ErrOther},
		"quotes IPv6":        {changed(m, headerSize, 0x60), ErrForm},
		"header too long":    {changed(m, headerSize, 0x4f), ErrForm},
		"quotes UDP":         {changed(m, headerSize+9, 17), ErrOther},
		"to somewhere else":  {changed(m, headerSize+16, 8), ErrOther},
		"quotes an answer":   {changed(m, headerSize+ipSize, 0), ErrOther},
		"changed by the NAT": {changed(m, headerSize+12, 10), nil},
		"another identifier": {changed(m, headerSize+ipSize+4, 9), nil},
	} {
		if _, err := ParseExceeded(c.m); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzParseExceeded(f *testing.F) {
	f.Add(AppendExceeded(nil, waiting, []byte("data")))
	f.Add(AppendEcho(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		data, err := ParseExceeded(b)
		if err == nil && !bytes.HasSuffix(b, data) {
			t.Errorf("%x gave %x", b, data)
		}
		if len(b) > headerSize+ipSize { // with its checksum right, so that more is looked at
			seal(b)
			_, _ = ParseExceeded(b)
		}
	})
}
