package faketcp

import (
	"bytes"
	"encoding/binary"
	"testing"

	"rendezvous/internal/dgram"
)

// pattern is n bytes of which each differs from its neighbours.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := 0; i+4 <= n; i += 4 {
		binary.BigEndian.PutUint32(b[i:], uint32(i)*2654435761)
	}
	return b
}

// ourSYN has the options by which the kernel tells us apart.
var ourSYN = []byte{2, 4, 5, 0x50, 1, 3, 3, 14, 1, 1, 4, 2}

// piece is a train of n bytes in segments of size, with room behind.
func piece(seq uint32, n, size int) train {
	b := make([]byte, n, 1<<16)
	copy(b, pattern(int(seq) + n)[seq:])
	return train{
		seg:   segment{local: to4, remote: from4, seq: seq, ack: 9, flags: flagACK, window: 0xff00, ttl: 60},
		burst: dgram.Burst{Addr: from4, Buf: b, Size: size},
	}
}

// Segments that come one at a time become one burst, with the boundaries they
// had; what does not follow stays apart.
func TestTrainsJoin(t *testing.T) {
	for name, c := range map[string]struct {
		first, next train
		change      func(r *train)
		want        bool
	}{
		"same size":           {piece(0, 1000, 1000), piece(1000, 1000, 1000), nil, true},
		"last is shorter":     {piece(0, 2000, 1000), piece(2000, 10, 10), nil, true},
		"runs of several":     {piece(0, 3000, 1000), piece(3000, 2500, 1000), nil, true},
		"PSH":                 {piece(0, 1000, 1000), piece(1000, 1000, 1000), func(r *train) { r.seg.flags |= flagPSH }, true},
		"behind a short one":  {piece(0, 1500, 1000), piece(1500, 500, 500), nil, false},
		"longer":              {piece(0, 1000, 1000), piece(1000, 1001, 1001), nil, false},
		"several, smaller":    {piece(0, 1000, 1000), piece(1000, 1000, 500), nil, false},
		"a gap":               {piece(0, 1000, 1000), piece(1001, 1000, 1000), nil, false},
		"from the past":       {piece(1000, 1000, 1000), piece(0, 1000, 1000), nil, false},
		"no payload":          {piece(0, 1000, 1000), piece(1000, 0, 0), nil, false},
		"behind no payload":   {piece(0, 0, 0), piece(0, 100, 100), nil, false},
		"another ACK":         {piece(0, 1000, 1000), piece(1000, 1000, 1000), func(r *train) { r.seg.ack++ }, false},
		"another window":      {piece(0, 1000, 1000), piece(1000, 1000, 1000), func(r *train) { r.seg.window++ }, false},
		"another sender":      {piece(0, 1000, 1000), piece(1000, 1000, 1000), func(r *train) { r.seg.remote = from6 }, false},
		"packed":              {piece(0, 1000, 1000), piece(1000, 1000, 1000), func(r *train) { r.seg.flags |= flagURG }, false},
		"FIN":                 {piece(0, 1000, 1000), piece(1000, 1000, 1000), func(r *train) { r.seg.flags |= flagFIN }, false},
		"options":             {piece(0, 1000, 1000), piece(1000, 1000, 1000), func(r *train) { r.seg.options = ourSYN }, false},
		"65 datagrams":        {piece(0, 6400, 100), piece(6400, 100, 100), nil, false},
		"more than one write": {piece(0, 65000, 1300), piece(65000, 1300, 1300), nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			if c.change != nil {
				c.change(&c.next)
			}
			before := bytes.Clone(c.first.burst.Buf)
			if got := c.first.join(&c.next); got != c.want {
				t.Fatalf("joined: %v", got)
			}
			want := before
			if c.want {
				want = append(want, c.next.burst.Buf...)
			}
			c.first.show(func(_ *segment, b dgram.Burst) {
				if !bytes.Equal(b.Buf, want) || cap(b.Buf) != len(want) {
					t.Errorf("%d bytes, room for %d; want %d", len(b.Buf), cap(b.Buf), len(want))
				}
			})
		})
	}
}
