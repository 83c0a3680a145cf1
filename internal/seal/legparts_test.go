package seal

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

// S3-15: a burst of datagrams that are too large for a leg crosses in few
// bursts of parts, and comes out as few.
func TestLegKeepsBurstsOfParts(t *testing.T) {
	for _, c := range []struct{ size, count, rest, bursts int }{
		{1400, 16, 0, 1}, {1400, 16, 300, 2}, {1400, 46, 0, 3}, {1401, 16, 0, 2}, {1472, 44, 1401, 6}, {4001, 10, 0, 2},
		{2801, 1, 0, 1}, {65507, 1, 0, 2}, {1400, 33, 0, 3},
	} {
		agent, coordinator := legPair()
		plain := anyBytes(c.size*c.count + c.rest)
		out := sealed(t, agent, dgram.Burst{Addr: legAt, Buf: plain, Size: c.size})
		if len(out) > c.bursts {
			t.Errorf("%d of %d bytes, and one of %d, left as %d bursts", c.count, c.size, c.rest, len(out))
		}
		for _, b := range out {
			if b.Size > legRoom || b.Len() > dgram.MaxSegments || len(b.Buf) > dgram.MaxBytes {
				t.Errorf("a burst has %d datagrams of %d bytes, %d in all", b.Len(), b.Size, len(b.Buf))
			}
		}
		back := opened(t, coordinator, out...)
		all := datagrams(back)
		if n := len(all); n != c.count+min(c.rest, 1) || !bytes.Equal(slices.Concat(all...), plain) || coordinator.Dropped() != 0 {
			t.Errorf("%d of %d bytes, and one of %d, came as %d; %d were dropped", c.count, c.size, c.rest, n, coordinator.Dropped())
		}
		if len(back) > len(out) {
			t.Errorf("%d bursts came out of %d", len(back), len(out))
		}
	}
}

func anyBytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

// However the network groups and shuffles parts and whole datagrams, each comes
// out once.
func TestLegPartsInAnyOrder(t *testing.T) {
	for range 200 {
		agent, coordinator := legPair()
		var want, cross [][]byte
		for range 1 + rand.N(6) {
			plain := dgram.Burst{Addr: legAt, Size: 1 + rand.N(4000)}
			plain.Buf = anyBytes(plain.Size*(1+rand.N(4)) + rand.N(plain.Size))
			want = append(want, datagrams([]dgram.Burst{plain})...)
			cross = append(cross, datagrams(sealed(t, agent, plain))...)
		}
		for i := range cross { // near ones change places
			j := min(i+rand.N(3), len(cross)-1)
			cross[i], cross[j] = cross[j], cross[i]
		}
		got := datagrams(opened(t, coordinator, grouped(cross)...))
		slices.SortFunc(want, bytes.Compare)
		slices.SortFunc(got, bytes.Compare)
		if !slices.EqualFunc(got, want, bytes.Equal) || coordinator.Dropped() != 0 {
			t.Fatalf("%d datagrams came as %d; %d were dropped", len(want), len(got), coordinator.Dropped())
		}
	}
}

// grouped makes bursts as a kernel would, or shorter ones.
func grouped(cross [][]byte) (out []dgram.Burst) {
	for i, d := range cross {
		if n := len(out); i > 0 && rand.N(5) > 0 {
			last := &out[n-1]
			if len(cross[i-1]) == last.Size && len(d) <= last.Size && len(last.Buf)+len(d) <= dgram.MaxBytes {
				last.Buf = append(last.Buf, d...)
				continue
			}
		}
		out = append(out, dgram.One(legAt, bytes.Clone(d)))
	}
	return out
}

// A datagram of which a part is lost is gone, and harms no other.
func TestLegPartsLost(t *testing.T) {
	for lost := range 6 {
		agent, coordinator := legPair()
		cross := datagrams(sealed(t, agent, dgram.Burst{Addr: legAt, Buf: bytes.Repeat([]byte("abc"), 2000), Size: 3000}))
		if len(cross) != 6 {
			t.Fatalf("two datagrams of 3000 bytes crossed as %d", len(cross))
		}
		cross = slices.Delete(cross, lost, lost+1)
		b := dgram.Burst{Addr: legAt, Buf: slices.Concat(cross...), Size: 1000 + proto.PartSize + proto.Overhead}
		got := datagrams(opened(t, coordinator, b))
		if len(got) != 1 || len(got[0]) != 3000 || coordinator.Dropped() != 0 {
			t.Errorf("without part %d, %d datagrams came; %d were dropped", lost, len(got), coordinator.Dropped())
		}
	}
}
