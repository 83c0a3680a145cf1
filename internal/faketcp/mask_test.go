package faketcp

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// Datagrams that begin alike, as all of ours do, must not look alike to a box
// that checks numbers: else a proof of packed mode is one throw of a die.
func TestPackedFieldsHaveNothingInCommon(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	const n, window = 4000, 1 << 31 // numbers that a tracker takes: half of them
	passed := 0
	for range n {
		d := bytes.Repeat([]byte{0xa0}, 1472)
		for i := len(d) - 16; i < len(d); i++ {
			d[i] = byte(random.Uint32())
		}
		var s segment
		packInto(&s, d)
		if s.seq < window {
			passed++
		}
		if got := unpack(nil, &s, d[packedBytes:]); !bytes.Equal(got, d) {
			t.Fatal("what was packed is unpacked to something else")
		}
	}
	if passed < n*45/100 || passed > n*55/100 {
		t.Errorf("%d of %d packed segments lie in one half of all sequence numbers", passed, n)
	}
}

func TestMaskOfShortPayload(t *testing.T) {
	for n := range 9 {
		d := bytes.Repeat([]byte{7}, packedBytes+n)
		var s segment
		packInto(&s, d)
		if got := unpack(nil, &s, d[packedBytes:]); !bytes.Equal(got, d) {
			t.Errorf("%d bytes of payload: got % x", n, got)
		}
	}
}
