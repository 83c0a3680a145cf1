package seal

import (
	"bytes"
	"testing"

	"rendezvous/proto"
)

// The targets here take what an attacker may send. None may panic, and none
// may take for genuine what was not sealed; a genuine one opens.

func FuzzOpenerOpen(f *testing.F) {
	key := [KeySize]byte{7}
	for _, c := range ciphers {
		f.Add(NewSealer(key, c).Seal(nil, 1, 5, 99, []byte("plain")), []byte("payload"), uint16(5), uint64(99))
	}
	f.Add([]byte{}, []byte{}, uint16(0), uint64(1<<62))
	f.Fuzz(func(t *testing.T, datagram, plain []byte, flow uint16, counter uint64) {
		for _, c := range ciphers {
			s, o := NewSealer(key, c), NewOpener(key, c)
			if got, err := o.Open([]byte("x"), datagram, flow, counter); err == nil {
				// The fuzzer holds one genuine datagram; the header is not compared.
				again := s.Seal(nil, 0, flow, counter, got[1:])
				if !bytes.Equal(again[proto.HeaderSize:], datagram[proto.HeaderSize:]) {
					t.Error("a forged datagram opened")
				}
			} else if string(got) != "x" {
				t.Error("dst changed with an error")
			}
			flow &= proto.MaxFlow
			sealed := s.Seal(nil, 0, flow, counter, plain)
			h, err := proto.ParseHeader(sealed)
			if err != nil || h.Flow != flow || h.Counter != uint16(counter)&(1<<proto.CounterBits-1) {
				t.Fatalf("header %+v, %v", h, err)
			}
			got, err := o.Open(nil, sealed, flow, counter)
			if err != nil || !bytes.Equal(got, plain) {
				t.Fatalf("own datagram: %v", err)
			}
		}
	})
}

func FuzzProbeKeysOpen(f *testing.F) {
	secret := Secret{1}
	a, b := DeriveProbeKeys([]byte("seed"), secret, true), DeriveProbeKeys([]byte("seed"), secret, false)
	f.Add(b.Seal(nil, true, 3, probeBody, 0), uint64(3), 100)
	f.Add(b.Seal(nil, false, 3, probeBody, 200), uint64(0), 0)
	f.Fuzz(func(t *testing.T, datagram []byte, counter uint64, size int) {
		if h, body, err := a.Open(datagram); err == nil {
			again := b.Seal(nil, h.Answer, h.Counter, body, len(datagram))
			if !bytes.Equal(again, datagram) {
				t.Error("a forged probe opened")
			}
		}
		size %= 2000
		h, body, err := b.Open(a.Seal(nil, size&1 == 0, counter, probeBody, size))
		if err != nil || h.Counter != counter || body != probeBody {
			t.Fatalf("own probe: %+v %+v %v", h, body, err)
		}
	})
}

func fuzzSealed(f *testing.F, seal func([32]byte, []byte) []byte, open func([32]byte, []byte) ([]byte, error)) {
	key := [32]byte{5}
	f.Add(seal(key, []byte("plain")), []byte("plain"))
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, sealed, plain []byte) {
		if got, err := open(key, sealed); err == nil && string(got) != "plain" {
			t.Errorf("a forged message opened: %q", got)
		}
		if got, err := open(key, seal(key, plain)); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("own message: %q, %v", got, err)
		}
	})
}

func FuzzOpenStanding(f *testing.F) {
	fuzzSealed(f, sealings["standing"].seal, sealings["standing"].open)
}

func FuzzOpenMessage(f *testing.F) { fuzzSealed(f, SealMessage, OpenMessage) }

func FuzzOpenFrom(f *testing.F) {
	from, to := fixedIdentity(f, 1), fixedIdentity(f, 101)
	sealed, err := sealTo(from, to.StaticKey(), []byte("plain"), [32]byte{9})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(make([]byte, 96))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := OpenFrom(to, from.StaticKey(), b); err == nil && !bytes.Equal(b, sealed) {
			t.Errorf("a forged message opened: %q", got)
		}
	})
}

func FuzzRespond(f *testing.F) {
	a, b := fixedIdentity(f, 1), fixedIdentity(f, 101)
	_, msg1, err := initiate(a, b.StaticKey(), Secret{}, []byte("hello"), [32]byte{9}, flagAES)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg1)
	f.Add(make([]byte, 96))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if r, err := Respond(b, Secret{}, msg); err == nil && !bytes.Equal(msg, msg1) {
			t.Errorf("a forged message opened: %q", r.Payload)
		}
	})
}

func FuzzInitiatorFinish(f *testing.F) {
	a, b := fixedIdentity(f, 1), fixedIdentity(f, 101)
	i, msg1, err := initiate(a, b.StaticKey(), Secret{}, []byte("hello"), [32]byte{9}, flagAES)
	if err != nil {
		f.Fatal(err)
	}
	r, err := respond(b, Secret{}, msg1, [32]byte{8}, flagAES)
	if err != nil {
		f.Fatal(err)
	}
	msg2, keys, err := r.Finish([]byte("answer"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(msg2)
	f.Add(make([]byte, 48))
	f.Fuzz(func(t *testing.T, msg []byte) {
		if _, payload, err := i.Finish(msg); err == nil && !bytes.Equal(msg, msg2) {
			t.Errorf("a forged message opened: %q", payload)
		}
		fresh, _, err := initiate(a, b.StaticKey(), Secret{}, []byte("hello"), [32]byte{9}, flagAES)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := fresh.Finish(msg); err != nil && bytes.Equal(msg, msg2) {
			t.Errorf("the genuine message does not open: %v", err)
		}
		if k, _, err := fresh.Finish(msg2); err == nil && k.Send != keys.Receive {
			t.Error("other keys")
		}
	})
}

func FuzzVerify(f *testing.F) {
	id, secret := fixedIdentity(f, 1), Secret{1}
	s := Sign(id, &secret, ContextMember, []byte("body"))
	good, err := proto.Marshal(s)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		var got proto.Signed
		if proto.Unmarshal(b, &got) != nil {
			return
		}
		if Verify(&got, &secret, ContextMember, id.Key()) == nil && string(got.Body) != "body" {
			t.Errorf("a forged body passed: %q", got.Body)
		}
	})
}
