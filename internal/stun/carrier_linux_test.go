package stun

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"rendezvous/internal/natlab/bubble"
)

// Control data as Linux gave it on amd64: 192.168.1.1 says that the TTL of a
// datagram ended.
const expiredControl = `
	30000000 00000000 00000000 0b000000
	71000000 020b0000 00000000 00000000
	02000000 c0a80101 00000000 00000000`

func TestExpiredAt(t *testing.T) {
	good := unhex(t, expiredControl)
	if got, ok := expiredAt(good); !ok || got != netip.MustParseAddr("192.168.1.1") {
		t.Errorf("read %v, %v", got, ok)
	}
	for name, i := range map[string]int{"origin": 20, "type": 21, "family": 32, "level": 8, "kind of message": 12} {
		b := unhex(t, expiredControl)
		b[i]++
		if got, ok := expiredAt(b); ok {
			t.Errorf("with another %s: %v", name, got)
		}
	}
	for n := range len(good) {
		if got, ok := expiredAt(good[:n]); ok {
			t.Errorf("of %d bytes: %v", n, got)
		}
	}
}

// What can't be known is false, at once and without an error.
func TestBehindCarrierUnknown(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		for _, c := range [][2]string{{"2001:db8::1", "[2001:db8::2]:443"}, {"198.51.100.2", "[2001:db8::2]:443"}} {
			if got, err := BehindCarrier(t.Context(), netip.MustParseAddr(c[0]), ap(c[1])); got || err != nil {
				t.Errorf("%v: %v, %v", c, got, err)
			}
		}
	})
}

func FuzzExpiredAt(f *testing.F) {
	f.Add(unhex(f, expiredControl))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := expiredAt(b); ok && (!a.Is4() || len(b) < unix.SizeofCmsghdr+sizeofExtendedErr) {
			t.Errorf("%x gave %v", b, a)
		}
	})
}
