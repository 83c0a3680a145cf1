package checksum

import (
	"math/rand/v2"
	"testing"
)

// RFC 1071 section 3 has the numbers.
func TestChecksumOfTheRFC(t *testing.T) {
	if got := Fold(Sum(0, []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7})); got != 0xddf2 {
		t.Errorf("is %#x, want 0xddf2", got)
	}
}

func TestSumAgainstSimple(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for n := range 200 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32()) | byte(n>>3) // some all ones, which carry most
		}
		want := uint32(0)
		for i, v := range b {
			want += uint32(v) << (8 * (1 - i%2))
		}
		for want > 0xffff {
			want = want>>16 + want&0xffff
		}
		cut := n / 2 &^ 1
		if got := Fold(Sum(Sum(0, b[:cut]), b[cut:])); got != uint16(want) {
			t.Fatalf("sum of %x: %#x, want %#x", b, got, want)
		}
	}
}
