package proto

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net/netip"
	"testing"
)

func TestCallBytes(t *testing.T) {
	c := Call{At: netip.MustParseAddrPort("198.51.100.2:40001"), Made: 0x0102030405060708, MAC: [16]byte{15: 9}}
	const want = "c63364029c41010203040506070800000000000000000000000000000009"
	b := AppendCall(nil, c)
	if got := hex.EncodeToString(b); got != want || len(b) != CallSize {
		t.Errorf("%s, want %s", got, want)
	}
	if got, err := ParseCall(append(b, 7)); err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := ParseCall(b[:CallSize-1]); !errors.Is(err, ErrShort) {
		t.Errorf("cut off: %v", err)
	}
}

func FuzzCall(f *testing.F) {
	f.Add(make([]byte, CallSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseCall(b)
		if err == nil && !bytes.Equal(AppendCall(nil, c), b[:CallSize]) {
			t.Errorf("%x: %+v", b, c)
		}
	})
}
