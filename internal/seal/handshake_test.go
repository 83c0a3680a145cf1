package seal

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

func newIdentity(t testing.TB) Identity {
	t.Helper()
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// badStatics are static keys that no handshake may begin with.
var badStatics = map[string][]byte{
	"no key":                   nil,
	"a short key":              make([]byte, 31),
	"a long key":               make([]byte, 33),
	"a key of low order":       make([]byte, 32),
	"another key of low order": append([]byte{1}, make([]byte, 31)...),
}

func TestHandshakeGivesBothTheSameKeys(t *testing.T) {
	a, b, secret := newIdentity(t), newIdentity(t), NewSecret()
	i, msg1, err := Initiate(a, b.StaticKey(), secret, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	r, err := Respond(b, secret, msg1)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.PeerStatic, a.StaticKey()) || string(r.Payload) != "hello" {
		t.Fatalf("responder got %x, %q", r.PeerStatic, r.Payload)
	}
	msg2, kb, err := r.Finish([]byte("answer"))
	if err != nil {
		t.Fatal(err)
	}
	ka, payload, err := i.Finish(msg2)
	if err != nil || string(payload) != "answer" {
		t.Fatalf("initiator got %q, %v", payload, err)
	}
	if ka.Send != kb.Receive || ka.Receive != kb.Send || ka.Export != kb.Export || ka.Cipher != kb.Cipher {
		t.Error("the two ends have different keys")
	}
	if ka.Send == ka.Receive || ka.Send == ka.Export || ka.Receive == ka.Export {
		t.Error("two keys are the same")
	}
	for _, pair := range [][2]Keys{{ka, kb}, {kb, ka}} {
		sealed := NewSealer(pair[0].Send, pair[0].Cipher).Seal(nil, 0, 1, 2, []byte("data"))
		got, err := NewOpener(pair[1].Receive, pair[1].Cipher).Open(nil, sealed, 1, 2)
		if err != nil || string(got) != "data" {
			t.Errorf("data: %q, %v", got, err)
		}
	}
}

func TestRekeyIsAHandshakeWithEmptyPayloads(t *testing.T) {
	a, b, secret := newIdentity(t), newIdentity(t), NewSecret()
	seen := map[[KeySize]byte]bool{}
	for range 3 {
		i, msg1, err := Initiate(a, b.StaticKey(), secret, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Respond(b, secret, msg1)
		if err != nil || len(r.Payload) != 0 {
			t.Fatal(r, err)
		}
		msg2, _, err := r.Finish(nil)
		if err != nil {
			t.Fatal(err)
		}
		k, payload, err := i.Finish(msg2)
		if err != nil || len(payload) != 0 {
			t.Fatal(payload, err)
		}
		for _, key := range [][KeySize]byte{k.Send, k.Receive, k.Export} {
			if seen[key] {
				t.Error("a key came twice")
			}
			seen[key] = true
		}
	}
}

func TestHandshakeSettlesTheCipher(t *testing.T) {
	a, b := fixedIdentity(t, 1), fixedIdentity(t, 101)
	for _, test := range []struct {
		initiator, responder byte
		want                 Cipher
	}{
		{0, 0, ChaCha20Poly1305},
		{flagAES, 0, ChaCha20Poly1305},
		{0, flagAES, ChaCha20Poly1305},
		{flagAES, flagAES, AES256GCM},
		{0xff, flagAES, AES256GCM}, // flags of a later version
		{0xfe, 0xff, ChaCha20Poly1305},
	} {
		i, msg1, err := initiate(a, b.StaticKey(), Secret{}, nil, [32]byte{1}, test.initiator)
		if err != nil {
			t.Fatal(err)
		}
		r, err := respond(b, Secret{}, msg1, [32]byte{2}, test.responder)
		if err != nil {
			t.Fatal(err)
		}
		msg2, kb, err := r.Finish(nil)
		if err != nil {
			t.Fatal(err)
		}
		ka, _, err := i.Finish(msg2)
		if err != nil || ka.Cipher != test.want || kb.Cipher != test.want {
			t.Errorf("flags %#x and %#x: %v and %v, %v; want %v", test.initiator, test.responder, ka.Cipher, kb.Cipher, err, test.want)
		}
	}
}

func TestRespondRefuses(t *testing.T) {
	a, b, secret := newIdentity(t), newIdentity(t), NewSecret()
	_, msg1, err := Initiate(a, b.StaticKey(), secret, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Respond(newIdentity(t), secret, msg1); !errors.Is(err, ErrForged) {
		t.Errorf("message for another static key: %v", err)
	}
	for i := range msg1 {
		bad := bytes.Clone(msg1)
		bad[i] ^= 1
		if _, err := Respond(b, secret, bad); !errors.Is(err, ErrForged) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := Respond(b, secret, msg1[:i]); !errors.Is(err, ErrForged) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
	if _, err := Respond(b, secret, append(msg1, 0)); !errors.Is(err, ErrForged) {
		t.Errorf("one byte more: %v", err)
	}
}

func TestInitiatorRefusesAndGoesOnWaiting(t *testing.T) {
	a, b, secret := newIdentity(t), newIdentity(t), NewSecret()
	i, msg1, err := Initiate(a, b.StaticKey(), secret, []byte("hello"))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(secret Secret) []byte {
		r, err := Respond(b, secret, msg1)
		if err != nil {
			t.Fatal(err)
		}
		msg2, _, err := r.Finish([]byte("answer"))
		if err != nil {
			t.Fatal(err)
		}
		return msg2
	}
	if _, _, err := i.Finish(answer(NewSecret())); !errors.Is(err, ErrForged) {
		t.Errorf("responder with another secret: %v", err)
	}
	msg2 := answer(secret)
	for n := range msg2 {
		bad := bytes.Clone(msg2)
		bad[n] ^= 1
		if _, _, err := i.Finish(bad); !errors.Is(err, ErrForged) {
			t.Errorf("byte %d changed: %v", n, err)
		}
		if _, _, err := i.Finish(msg2[:n]); !errors.Is(err, ErrForged) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	// A public key of low order stops a handshake half way, at a place from
	// which the noise package does not find back by itself.
	if _, _, err := i.Finish(append(make([]byte, 32), msg2[32:]...)); !errors.Is(err, ErrForged) {
		t.Errorf("key of low order: %v", err)
	}
	if _, payload, err := i.Finish(msg2); err != nil || string(payload) != "answer" {
		t.Errorf("the genuine answer, after forged ones: %q, %v", payload, err)
	}
}

func TestResponderFinishesOnce(t *testing.T) {
	a, b, secret := newIdentity(t), newIdentity(t), NewSecret()
	_, msg1, err := Initiate(a, b.StaticKey(), secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := Respond(b, secret, msg1)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Finish(nil); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.Finish(nil); err == nil {
		t.Error("two answers under one ephemeral key")
	}
}

func TestInitiateRefusesABadKey(t *testing.T) {
	for name, key := range badStatics {
		_, _, err := Initiate(newIdentity(t), key, NewSecret(), nil)
		if err == nil {
			t.Errorf("%s was taken", name)
		} else if !strings.Contains(err.Error(), "static key") {
			t.Errorf("%s: the error does not say what is wrong: %v", name, err)
		}
	}
}
