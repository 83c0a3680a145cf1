package proto

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

func TestKindOf(t *testing.T) {
	stun := []byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	otherCookie := append([]byte(nil), stun...)
	otherCookie[7] = 0
	for _, test := range []struct {
		name string
		b    []byte
		want Kind
	}{
		{"nothing", nil, KindUnknown},
		{"STUN request", stun, KindSTUN},
		{"STUN success", append([]byte{1, 1}, stun[2:]...), KindSTUN},
		{"STUN cut off", stun[:19], KindUnknown},
		{"another cookie", otherCookie, KindUnknown},
		{"a zero byte", []byte{0}, KindUnknown},
		{"WireGuard", []byte{1, 0, 0, 0}, KindUnknown},
		{"QUIC, short header", []byte{0x40}, KindQUIC},
		{"QUIC, long header", []byte{0xc0}, KindQUIC},
		{"QUIC, all ones", []byte{0xff}, KindQUIC},
		{"0x80", []byte{0x80}, KindUnknown},
		{"probe", []byte{0x81}, KindProbe},
		{"probe answer", []byte{0x82}, KindProbeAnswer},
		{"bind", []byte{0x83}, KindBind},
		{"bound", []byte{0x84}, KindBound},
		{"prime", Prime(), KindPrime},
		{"0x86", []byte{0x86}, KindUnknown},
		{"meet", []byte{0x87}, KindMeet},
		{"met", []byte{0x88}, KindMet},
		{"0x9f", []byte{0x9f}, KindUnknown},
		{"data, first", []byte{0xa0}, KindData},
		{"data, last", []byte{0xbf}, KindData},
	} {
		if got := KindOf(test.b); got != test.want {
			t.Errorf("%s: %d, want %d", test.name, got, test.want)
		}
	}
}

// nearest is CompleteCounter as one would say it: of all counters that end in
// low, the one nearest to expected; of two the higher.
func nearest(expected uint64, low uint16) uint64 {
	const window = 1 << CounterBits
	best, distance := uint64(0), uint64(1<<63)
	first := expected / window
	for n := max(first, 2) - 2; n <= first+2; n++ {
		c := n*window + uint64(low)%window
		d := max(c, expected) - min(c, expected)
		if c < MaxCounter && d <= distance {
			best, distance = c, d
		}
	}
	return best
}

func TestCompleteCounterIsTheNearest(t *testing.T) {
	const window = 1 << CounterBits
	edges := []uint64{0, 1, window/2 - 1, window / 2, window/2 + 1, window - 1, window, window + 1, 3*window/2 - 1, 3 * window / 2,
		2 * window, 1 << 32, 1<<60 - 1, 1 << 60,
		MaxCounter - 2*window, MaxCounter - window - 1, MaxCounter - window, MaxCounter - window/2, MaxCounter - 1}
	lows := []uint16{0, 1, window/2 - 1, window / 2, window/2 + 1, window - 1}
	for _, expected := range edges {
		for _, low := range lows {
			if got, want := CompleteCounter(expected, low), nearest(expected, low); got != want {
				t.Errorf("expected %d low %d: %d, want %d", expected, low, got, want)
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 200000 {
		expected := r.Uint64() >> (2 + r.UintN(62))
		low := uint16(r.UintN(window))
		got, want := CompleteCounter(expected, low), nearest(expected, low)
		if got != want {
			t.Fatalf("expected %d low %d: %d, want %d", expected, low, got, want)
		}
		if got%window != uint64(low) || got >= MaxCounter {
			t.Fatalf("expected %d low %d: %d", expected, low, got)
		}
	}
}

// What was sent is what is completed, as long as it comes within half a window
// of what is expected.
func TestCompleteCounterGivesBackWhatWasSent(t *testing.T) {
	const half = 1 << (CounterBits - 1)
	r := rand.New(rand.NewPCG(3, 4))
	for range 200000 {
		sent := r.Uint64() >> (2 + r.UintN(62))
		expected := sent + r.Uint64N(half)
		if r.IntN(2) == 0 {
			expected = sent - min(sent, r.Uint64N(half+1))
		}
		var b [Overhead]byte
		PutHeader(b[:], 1, 5, sent)
		h, err := ParseHeader(b[:])
		if err != nil {
			t.Fatal(err)
		}
		if got := CompleteCounter(expected, h.Counter); sent < MaxCounter && got != sent {
			t.Fatalf("sent %d expected %d: %d", sent, expected, got)
		}
	}
}

// Bits beyond the header's 14 must not reach the counter.
func TestCompleteCounterTakesLowBitsAlone(t *testing.T) {
	if got := CompleteCounter(0, 1<<CounterBits|3); got != 3 {
		t.Errorf("got %d", got)
	}
}

func TestAddressHasOneForm(t *testing.T) {
	for _, test := range []struct{ in, out string }{
		{"198.51.100.2:4", "198.51.100.2:4"},
		{"[::ffff:198.51.100.2]:4", "198.51.100.2:4"},
		{"[2001:db8::1]:65535", "[2001:db8::1]:65535"},
		{"[fe80::1%eth0]:9", "[fe80::1]:9"},
		{"0.0.0.0:7", "0.0.0.0:7"},
		{"[::]:7", "invalid AddrPort"},
	} {
		b := appendAddr(nil, netip.MustParseAddrPort(test.in))
		got, ok := parseAddr(b)
		if !ok || len(b) != addrSize || got.String() != test.out {
			t.Errorf("%s: %v %v, want %s", test.in, got, ok, test.out)
		}
	}
	if got, ok := parseAddr(appendAddr(nil, netip.AddrPort{})); !ok || got.IsValid() {
		t.Errorf("no address: %v", got)
	}
	if got, ok := parseAddr(appendAddr(nil, netip.AddrPortFrom(netip.Addr{}, 9))); !ok || got.IsValid() {
		t.Errorf("a port alone: %v", got)
	}
}
