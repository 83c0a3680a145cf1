package seal

import (
	"bytes"
	"errors"
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
}

func TestHandshakeRefuses(t *testing.T) {
	a, b, secret := newIdentity(t), newIdentity(t), NewSecret()
	i, msg1, err := Initiate(a, b.StaticKey(), secret, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Respond(newIdentity(t), secret, msg1); !errors.Is(err, ErrForged) {
		t.Errorf("message for another static key: %v", err)
	}
	r, err := Respond(b, NewSecret(), msg1)
	if err != nil {
		t.Fatal(err)
	}
	msg2, _, err := r.Finish(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := i.Finish(msg2); !errors.Is(err, ErrForged) {
		t.Errorf("responder with another secret: %v", err)
	}
}
