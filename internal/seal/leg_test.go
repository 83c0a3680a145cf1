package seal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

var legAt = netip.MustParseAddrPort("203.0.113.10:51820")

func legPair() (agent, coordinator *Leg) {
	key := [KeySize]byte{1, 2, 3}
	return NewLeg(key, false), NewLeg(key, true)
}

// sealed gives copies of the bursts that l makes of b.
func sealed(t testing.TB, l *Leg, b dgram.Burst) (out []dgram.Burst) {
	t.Helper()
	if err := l.Seal(b, collect(&out)); err != nil {
		t.Fatal(err)
	}
	return out
}

func collect(out *[]dgram.Burst) func(dgram.Burst) error {
	return func(b dgram.Burst) error {
		b.Buf = bytes.Clone(b.Buf)
		*out = append(*out, b)
		return nil
	}
}

// datagrams are those of bursts, one by one.
func datagrams(in []dgram.Burst) (out [][]byte) {
	for _, b := range in {
		for d := range b.All() {
			out = append(out, bytes.Clone(d))
		}
	}
	return out
}

func opened(t testing.TB, l *Leg, in ...dgram.Burst) (out []dgram.Burst) {
	t.Helper()
	for _, b := range in {
		if err := l.Open(time.Now(), b, collect(&out)); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// S3-15: what the service does not protect itself is sealed between agent and
// coordinator; a burst stays one burst.
func TestLegKeepsBursts(t *testing.T) {
	agent, coordinator := legPair()
	plain := dgram.Burst{Addr: legAt, Buf: bytes.Repeat([]byte("0123456789"), 100), Size: 300}
	out := sealed(t, agent, plain)
	if len(out) != 1 || out[0].Size != 300+proto.Overhead || len(out[0].Buf) != 1000+4*proto.Overhead || out[0].Addr != legAt {
		t.Fatalf("a burst of 4 was sealed as %d bursts", len(out))
	}
	if bytes.Contains(out[0].Buf, []byte("0123456789")) {
		t.Error("what is sealed can be read")
	}
	back := opened(t, coordinator, out...)
	if len(back) != 1 || back[0].Size != 300 || !bytes.Equal(back[0].Buf, plain.Buf) || back[0].Addr != legAt {
		t.Fatalf("it was opened as %v", back)
	}
	if again := opened(t, coordinator, out...); len(again) != 0 || coordinator.Dropped() != 4 {
		t.Errorf("repeated, %d opened and %d were dropped", len(again), coordinator.Dropped())
	}
	if mine := opened(t, agent, out...); len(mine) != 0 {
		t.Error("a side opens what it sealed itself")
	}
	if back := opened(t, agent, sealed(t, coordinator, dgram.One(legAt, []byte("answer")))...); len(back) != 1 || string(back[0].Buf) != "answer" {
		t.Errorf("the answer was opened as %v", back)
	}
}

func TestLegCarriesEverySize(t *testing.T) {
	agent, coordinator := legPair()
	for _, size := range []int{0, 1, 32, 53, 1379, 1380, 1381, 1452, 1472, 2800, 9000, 65507} {
		d := make([]byte, size)
		for i := range d {
			d[i] = byte(rand.Uint32())
		}
		out := sealed(t, coordinator, dgram.One(legAt, d))
		for _, b := range out {
			if b.Size > legRoom || len(b.Buf) > dgram.MaxBytes {
				t.Errorf("%d bytes were sealed as %d of %d", size, len(b.Buf), b.Size)
			}
		}
		back := datagrams(opened(t, agent, out...))
		if len(back) != 1 || !bytes.Equal(back[0], d) {
			t.Errorf("%d bytes came as %d datagrams", size, len(back))
		}
	}
}

func TestLegMixedBurst(t *testing.T) {
	agent, coordinator := legPair()
	var want [][]byte
	var all []dgram.Burst
	for _, size := range []int{100, 100, 40, 200, 0, 0, 100, 1500, 10} {
		d := bytes.Repeat([]byte{byte(size)}, size)
		want = append(want, d)
		all = append(all, sealed(t, agent, dgram.One(legAt, d))...)
	}
	// As a byte stream brings them: each on its own.
	got := datagrams(opened(t, coordinator, all...))
	if len(got) != len(want) {
		t.Fatalf("%d datagrams came as %d", len(want), len(got))
	}
	for i := range want {
		if !bytes.Equal(got[i], want[i]) {
			t.Errorf("datagram %d has %d bytes, want %d", i, len(got[i]), len(want[i]))
		}
	}
	// One burst whose plaintexts are of many sizes: parts and whole ones.
	long := dgram.Burst{Addr: legAt, Buf: bytes.Repeat([]byte("ab"), 2250), Size: 1500}
	got = datagrams(opened(t, coordinator, sealed(t, agent, long)...))
	if len(got) != 3 || len(got[0]) != 1500 {
		t.Errorf("three large datagrams came as %d", len(got))
	}
}

// A blackout of any length heals by itself after some datagrams.
func TestLegAfterBlackout(t *testing.T) {
	agent, coordinator := legPair()
	opened(t, coordinator, sealed(t, agent, dgram.One(legAt, []byte("first")))...)
	for _, lost := range []uint64{100, 8191, 8193, 20_000, 1_000_000, 3_000_000} {
		agent.counter.Add(lost)
		n := 0
		for len(opened(t, coordinator, sealed(t, agent, dgram.One(legAt, []byte("again")))...)) == 0 {
			if n++; n > int(lost/legWrap/legTries)+1 {
				t.Fatalf("%d datagrams after a blackout of %d it still does not open", n, lost)
			}
		}
		if lost < legWrap/2 && n > 0 {
			t.Errorf("a loss of %d cost %d more", lost, n)
		}
	}
}

func TestLegTellsErrors(t *testing.T) {
	agent, coordinator := legPair()
	down := errors.New("down")
	if err := agent.Seal(dgram.One(legAt, []byte("x")), func(dgram.Burst) error { return down }); !errors.Is(err, down) {
		t.Errorf("Seal gave %v", err)
	}
	out := sealed(t, agent, dgram.One(legAt, []byte("y")))
	if err := coordinator.Open(time.Now(), out[0], func(dgram.Burst) error { return down }); !errors.Is(err, down) {
		t.Errorf("Open gave %v", err)
	}
}

func FuzzLegOpen(f *testing.F) {
	agent, _ := legPair()
	for _, n := range []int{0, 5, 1500} {
		for _, b := range sealed(f, agent, dgram.One(legAt, make([]byte, n))) {
			f.Add(b.Buf, b.Size)
		}
	}
	f.Add([]byte{0xa0}, 1)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		_, coordinator := legPair()
		if size <= 0 {
			size = len(b)
		}
		in := dgram.Burst{Addr: legAt, Buf: b, Size: size}
		if in.Len() > dgram.MaxSegments {
			return
		}
		out := datagrams(opened(t, coordinator, in))
		if len(out)+int(coordinator.Dropped()) > in.Len() {
			t.Fatalf("%d datagrams came of %d", len(out), in.Len())
		}
	})
}

// A part that is sealed rightly may still be nonsense.
func FuzzLegPart(f *testing.F) {
	part := func(index, count uint8) []byte {
		return proto.AppendPart(nil, proto.Part{Flow: legFlow, ID: 1, Index: index, Count: count, Payload: []byte("x")})
	}
	f.Add(part(0, 1), 0)
	f.Add(slices.Concat(part(0, 2), part(1, 2)), proto.PartSize+1)
	f.Add(slices.Concat(part(0, 3), part(2, 3), part(1, 3)), proto.PartSize+1)
	f.Add([]byte{}, 0)
	f.Fuzz(func(t *testing.T, plain []byte, size int) {
		agent, coordinator := legPair()
		if size <= 0 || size > len(plain) {
			size = len(plain)
		}
		in := dgram.Burst{Addr: legAt, Buf: plain, Size: size}
		if size > legRoom-proto.Overhead || in.Len() > dgram.MaxSegments {
			return
		}
		var out []dgram.Burst
		if err := agent.sealRun(make([]byte, 0, dgram.MaxBytes), proto.ControlFlow, in, collect(&out)); err != nil {
			t.Fatal(err)
		}
		if n := len(datagrams(opened(t, coordinator, out...))); n+int(coordinator.Dropped()) > in.Len() {
			t.Fatalf("%d datagrams came of %d parts", n, in.Len())
		}
	})
}

func BenchmarkLeg(b *testing.B)      { benchmarkLeg(b, 1300) }
func BenchmarkLegParts(b *testing.B) { benchmarkLeg(b, 1400) }

func benchmarkLeg(b *testing.B, size int) {
	agent, coordinator := legPair()
	burst := dgram.Burst{Addr: legAt, Buf: make([]byte, 16*size), Size: size}
	deliver := func(dgram.Burst) error { return nil }
	cross := func(s dgram.Burst) error { return coordinator.Open(time.Time{}, s, deliver) }
	b.SetBytes(int64(len(burst.Buf)))
	b.ReportAllocs()
	for b.Loop() {
		_ = agent.Seal(burst, cross)
	}
}
