package seal

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"rendezvous/proto"
)

var ciphers = []Cipher{ChaCha20Poly1305, AES256GCM}

func TestDatagramOpensOnlyAsItWasSealed(t *testing.T) {
	key := deriveKey([]byte("test"), nil, "key")
	for _, c := range ciphers {
		t.Run(c.String(), func(t *testing.T) {
			s, o := NewSealer(key, c), NewOpener(key, c)
			plain := []byte("a datagram of a service")
			const flow, counter = 77, 1<<40 + 5
			sealed := s.Seal([]byte("before"), 1, flow, counter, plain)[len("before"):]
			if len(sealed) != len(plain)+proto.Overhead {
				t.Fatalf("sealed %d bytes, want %d", len(sealed), len(plain)+proto.Overhead)
			}
			h, err := proto.ParseHeader(sealed)
			if err != nil || h.Epoch != 1 || h.Flow != flow || uint64(h.Counter) != counter%(1<<proto.CounterBits) {
				t.Fatalf("header %+v, %v", h, err)
			}
			got, err := o.Open([]byte("x"), sealed, flow, counter)
			if err != nil || string(got) != "x"+string(plain) {
				t.Fatalf("opened %q, %v", got, err)
			}
			for name, open := range map[string]func() ([]byte, error){
				"another flow":    func() ([]byte, error) { return o.Open([]byte("x"), sealed, flow+1, counter) },
				"another counter": func() ([]byte, error) { return o.Open([]byte("x"), sealed, flow, counter+1) },
				"another key": func() ([]byte, error) {
					return NewOpener([KeySize]byte{1}, c).Open([]byte("x"), sealed, flow, counter)
				},
				"another cipher": func() ([]byte, error) {
					return NewOpener(key, 1-c).Open([]byte("x"), sealed, flow, counter)
				},
			} {
				if got, err := open(); !errors.Is(err, ErrForged) || string(got) != "x" {
					t.Errorf("%s: %q, %v", name, got, err)
				}
			}
			for i := proto.HeaderSize; i < len(sealed); i++ {
				bad := bytes.Clone(sealed)
				bad[i] ^= 0x10
				if _, err := o.Open(nil, bad, flow, counter); !errors.Is(err, ErrForged) {
					t.Errorf("byte %d changed: %v", i, err)
				}
			}
			if _, err := o.Open(nil, sealed[:proto.Overhead-1], flow, counter); !errors.Is(err, proto.ErrShort) {
				t.Errorf("short: %v", err)
			}
		})
	}
}

func TestSealLeavesTheRestOfTheBufferAlone(t *testing.T) {
	for _, c := range ciphers {
		s := NewSealer([KeySize]byte{3}, c)
		buf := bytes.Repeat([]byte{0xee}, 200)
		plain := []byte("0123456789")
		sealed := s.Seal(buf[:50], 0, 1, 1, plain)
		if &sealed[0] != &buf[0] {
			t.Fatal("the buffer has room and was not used")
		}
		want := bytes.Repeat([]byte{0xee}, 200)
		if !bytes.Equal(buf[:50], want[:50]) || !bytes.Equal(buf[len(sealed):], want[len(sealed):]) {
			t.Errorf("%v: bytes before or behind the datagram changed", c)
		}
		if got := s.Seal(bytes.Repeat([]byte{0xee}, 50), 0, 1, 1, plain); !bytes.Equal(got, sealed) {
			t.Errorf("%v: a buffer without room gets other bytes", c)
		}
	}
}

// A burst as the session seals it: out of place, at a stride, from many
// goroutines with one Sealer.
func TestSealerServesManyGoroutines(t *testing.T) {
	for _, c := range ciphers {
		s, o := NewSealer([KeySize]byte{3}, c), NewOpener([KeySize]byte{3}, c)
		var group sync.WaitGroup
		for g := range uint64(4) {
			group.Go(func() {
				plain := bytes.Repeat([]byte{byte(g)}, 100)
				for i := range uint64(200) {
					counter := g<<32 + i
					sealed := s.Seal(nil, 0, uint16(g), counter, plain)
					got, err := o.Open(nil, sealed, uint16(g), counter)
					if err != nil || !bytes.Equal(got, plain) {
						t.Errorf("goroutine %d datagram %d: %v", g, i, err)
						return
					}
				}
			})
		}
		group.Wait()
	}
}

func TestEmptyDatagramHasTheOverheadAlone(t *testing.T) {
	for _, c := range ciphers {
		sealed := NewSealer([KeySize]byte{3}, c).Seal(nil, 0, 1, 1, nil)
		got, err := NewOpener([KeySize]byte{3}, c).Open(nil, sealed, 1, 1)
		if len(sealed) != proto.Overhead || len(got) != 0 || err != nil {
			t.Errorf("%v: %d bytes, opened %d, %v", c, len(sealed), len(got), err)
		}
	}
}

func BenchmarkSeal1400(b *testing.B) {
	for _, c := range ciphers {
		b.Run(c.String(), func(b *testing.B) {
			s := NewSealer([KeySize]byte{}, c)
			plain, dst := make([]byte, 1400), make([]byte, 0, 2048)
			b.SetBytes(1400)
			b.ReportAllocs()
			for i := range b.N {
				s.Seal(dst, 0, 1, uint64(i), plain)
			}
		})
	}
}

func BenchmarkOpen1400(b *testing.B) {
	for _, c := range ciphers {
		b.Run(c.String(), func(b *testing.B) {
			sealed := NewSealer([KeySize]byte{}, c).Seal(nil, 0, 1, 1, make([]byte, 1400))
			o, dst := NewOpener([KeySize]byte{}, c), make([]byte, 0, 2048)
			b.SetBytes(1400)
			b.ReportAllocs()
			for range b.N {
				if _, err := o.Open(dst, sealed, 1, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
