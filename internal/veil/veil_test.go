package veil

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
)

func ends(t testing.TB) (agent, coordinator *Veil) {
	t.Helper()
	pin := [32]byte{1, 2, 3}
	agent, err := New(pin, false)
	if err != nil {
		t.Fatal(err)
	}
	if coordinator, err = New(pin, true); err != nil {
		t.Fatal(err)
	}
	return agent, coordinator
}

// S2-12
func TestCover(t *testing.T) {
	agent, coordinator := ends(t)
	stranger, err := New([32]byte{9}, true)
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[int]bool{}
	var firsts [256]int
	for n := range 2000 {
		d := append([]byte{0xc3, 0, 0, 0, 1}, bytes.Repeat([]byte{byte(n)}, n%1196)...)
		b, err := agent.Cover(d)
		if err != nil {
			t.Fatal(err)
		}
		if len(b) > mostSize {
			t.Fatalf("%d bytes became %d", len(d), len(b))
		}
		sizes[len(b)-len(d)] = true
		firsts[b[0]]++
		if _, ok := stranger.Uncover(bytes.Clone(b)); ok {
			t.Fatal("another pin uncovers it")
		}
		if _, ok := agent.Uncover(bytes.Clone(b)); ok {
			t.Fatal("it can be sent back to where it came from")
		}
		if got, ok := coordinator.Uncover(b); !ok || !bytes.Equal(got, d) {
			t.Fatalf("%d bytes: got %d, %v", len(d), len(got), ok)
		}
	}
	if len(sizes) < 100 {
		t.Errorf("only %d different lengths of padding", len(sizes))
	}
	for b, n := range firsts {
		if n > 40 { // 7.8 are to be expected
			t.Errorf("the first byte is %#x %d times of 2000", b, n)
		}
	}
}

// script is a Conn that notes what is written.
type script struct {
	dgram.Conn
	wrote [][]byte
}

func (s *script) Write(b dgram.Burst) error {
	for d := range b.All() {
		s.wrote = append(s.wrote, bytes.Clone(d))
	}
	return nil
}

func TestWhoCameCoveredIsAnsweredCovered(t *testing.T) {
	agent, coordinator := ends(t)
	var wire script
	c := Over(&wire, coordinator, false)
	a, b := netip.MustParseAddrPort("192.0.2.1:1"), netip.MustParseAddrPort("192.0.2.2:1")
	hello, err := agent.Cover([]byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := c.Receive(a, hello, time.Now()); !ok || string(d) != "hello" {
		t.Fatalf("got %q, %v", d, ok)
	}
	if _, ok := c.Receive(b, []byte("in the clear, as most are who come here"), time.Now()); ok {
		t.Fatal("nothing was uncovered")
	}
	for _, to := range []netip.AddrPort{a, b} {
		if err := c.Write(dgram.One(to, []byte("answer"))); err != nil {
			t.Fatal(err)
		}
	}
	if d, ok := agent.Uncover(wire.wrote[0]); !ok || string(d) != "answer" {
		t.Errorf("a got %q", wire.wrote[0])
	}
	if string(wire.wrote[1]) != "answer" {
		t.Errorf("b got %q", wire.wrote[1])
	}
	if c.Knows(a, time.Now().Add(knownFor)) {
		t.Error("a is known for ever")
	}
}

func TestKnownAreBounded(t *testing.T) {
	_, coordinator := ends(t)
	c := Over(&script{}, coordinator, false)
	now := time.Now()
	for n := range mostKnown + 10 {
		c.note(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 1), now)
	}
	if len(c.known) != mostKnown {
		t.Errorf("%d are known", len(c.known))
	}
	late := netip.MustParseAddrPort("192.0.2.1:1")
	c.note(late, now.Add(knownFor))
	if len(c.known) != 1 || !c.Knows(late, now.Add(knownFor)) {
		t.Errorf("%d are known later", len(c.known))
	}
}

func FuzzUncover(f *testing.F) {
	agent, coordinator := ends(f)
	for _, d := range []string{"", "x", "a datagram"} {
		b, err := agent.Cover([]byte(d))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, ok := coordinator.Uncover(bytes.Clone(b)); ok && len(d)+leastRoom > len(b) {
			t.Errorf("%x became %x", b, d)
		}
	})
}

func BenchmarkUncover(b *testing.B) {
	agent, coordinator := ends(b)
	for _, size := range []int{50, 1200} {
		covered, err := agent.Cover(make([]byte, size))
		if err != nil {
			b.Fatal(err)
		}
		for name, d := range map[string][]byte{"ours": covered, "noise": append([]byte{1}, covered...)} {
			b.Run(fmt.Sprint(name, "-", size), func(b *testing.B) {
				for b.Loop() {
					coordinator.Uncover(d)
				}
			})
		}
	}
}

// TestVector uncovers what an agent with the pin 01 02 03 00... has sent: the
// keys and the form must stay (proto/SPEC.md section 22).
func TestVector(t *testing.T) {
	_, coordinator := ends(t)
	b, err := hex.DecodeString("e83e6462b49a4526bea5220565314ed962969c60e0292c831e2da7fa62ad7fe5ea1ecdac3a07ed7e618a77f5813e")
	if err != nil {
		t.Fatal(err)
	}
	if d, ok := coordinator.Uncover(b); !ok || string(d) != "a datagram" {
		t.Errorf("got %q, %v", d, ok)
	}
}
