//go:build !race

// Under the race detector a sync.Pool forgets at random.

package seal

import (
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

func TestNoAllocationPerDatagram(t *testing.T) {
	plain, dst := make([]byte, 1400), make([]byte, 0, 1500)
	a, b := DeriveProbeKeys(plain[:32], Secret{}, true), DeriveProbeKeys(plain[:32], Secret{}, false)
	check := func(name string, f func()) {
		t.Helper()
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	for _, c := range ciphers {
		s, o := NewSealer([KeySize]byte{}, c), NewOpener([KeySize]byte{}, c)
		var counter uint64
		check(c.String()+" seal", func() { s.Seal(dst, 1, 7, counter, plain); counter++ })
		burst := make([]byte, 0, 16*(1400+proto.Overhead))
		check(c.String()+" seal a burst at a stride", func() {
			out := burst
			for range 16 {
				out = s.Seal(out, 1, 7, counter, plain)
				counter++
			}
		})
		sealed := s.Seal(nil, 1, 7, 5, plain)
		check(c.String()+" open", func() {
			if _, err := o.Open(dst, sealed, 7, 5); err != nil {
				t.Error(err)
			}
		})
		check(c.String()+" open what is forged", func() {
			if _, err := o.Open(dst, sealed, 7, 6); err == nil {
				t.Error("a forged datagram opened")
			}
		})
		// The buffer has room for the datagram to its last byte, not one more.
		exact := make([]byte, 0, len(plain)+proto.Overhead)
		check(c.String()+" seal into an exact fit", func() { s.Seal(exact, 1, 7, counter, plain); counter++ })
		check(c.String()+" open into an exact fit", func() {
			if _, err := o.Open(exact[:0:len(plain)], sealed, 7, 5); err != nil {
				t.Error(err)
			}
		})
	}
	check("seal a probe", func() { a.Seal(dst, false, 1, proto.ProbeBody{}, 1472) })
	w := &Window{}
	check("window", func() { w.Accept(w.Expected() + 3); w.Jump(w.Expected() + 100) })
	stray := b.Seal(nil, false, 1, proto.ProbeBody{}, 0)
	check("open a probe of another session", func() {
		if _, _, err := b.Open(stray); err == nil {
			t.Error("a stray probe opened")
		}
	})
}

func TestLegAllocatesNothing(t *testing.T) {
	agent, coordinator := legPair()
	b := dgram.Burst{Addr: legAt, Buf: make([]byte, 16*1300), Size: 1300}
	deliver := func(dgram.Burst) error { return nil }
	cross := func(s dgram.Burst) error { return coordinator.Open(time.Time{}, s, deliver) }
	if n := testing.AllocsPerRun(100, func() { _ = agent.Seal(b, cross) }); n > 3 {
		t.Errorf("a burst of 16 costs %v allocations", n)
	}
}
