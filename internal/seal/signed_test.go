package seal

import (
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	wire "rendezvous/proto"
)

func TestVerifyTellsWhatIsWrong(t *testing.T) {
	id, other, secret := newIdentity(t), newIdentity(t), NewSecret()
	body := []byte("a record")
	foreign := NewSecret()
	type change func(*wire.Signed)
	tests := map[string]struct {
		change  change
		secret  *Secret
		context string
		want    error
	}{
		"genuine":                 {secret: &secret},
		"mac not asked for":       {change: func(s *wire.Signed) { s.Mac = nil }},
		"body":                    {change: func(s *wire.Signed) { s.Body = []byte("a recorD") }, secret: &secret, want: ErrSignature},
		"body longer":             {change: func(s *wire.Signed) { s.Body = append(s.Body, 0) }, secret: &secret, want: ErrSignature},
		"signature":               {change: func(s *wire.Signed) { s.Signature[5] ^= 1 }, secret: &secret, want: ErrSignature},
		"signature missing":       {change: func(s *wire.Signed) { s.Signature = nil }, secret: &secret, want: ErrSignature},
		"context":                 {context: ContextRevocation, secret: &secret, want: ErrSignature},
		"signer":                  {change: func(s *wire.Signed) { s.Signer = other.Key() }, secret: &secret, want: ErrSigner},
		"signer missing":          {change: func(s *wire.Signed) { s.Signer = nil }, secret: &secret, want: ErrSigner},
		"nothing":                 {change: func(s *wire.Signed) { proto.Reset(s) }, secret: &secret, want: ErrSigner},
		"mac":                     {change: func(s *wire.Signed) { s.Mac[0] ^= 1 }, secret: &secret, want: ErrMAC},
		"mac missing":             {change: func(s *wire.Signed) { s.Mac = nil }, secret: &secret, want: ErrMAC},
		"mac cut":                 {change: func(s *wire.Signed) { s.Mac = s.Mac[:31] }, secret: &secret, want: ErrMAC},
		"mac of another network":  {change: func(s *wire.Signed) { s.Mac = Sign(id, &foreign, ContextMember, body).Mac }, secret: &secret, want: ErrMAC},
		"mac of another context":  {change: func(s *wire.Signed) { s.Mac = Sign(id, &secret, ContextCandidates, body).Mac }, secret: &secret, want: ErrMAC},
		"mac of the same by else": {change: func(s *wire.Signed) { s.Mac = Sign(other, &secret, ContextMember, body).Mac }, secret: &secret, want: ErrMAC},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			s := Sign(id, &secret, ContextMember, body)
			if test.change != nil {
				test.change(s)
			}
			context := ContextMember
			if test.context != "" {
				context = test.context
			}
			if err := Verify(s, test.secret, context, id.Key()); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func TestVerifyWithoutAKeyOrABody(t *testing.T) {
	id := newIdentity(t)
	s := Sign(id, nil, ContextMember, nil)
	if err := Verify(s, nil, ContextMember, id.Key()); err != nil {
		t.Errorf("empty body: %v", err)
	}
	if s.Mac != nil {
		t.Error("a mac without a secret")
	}
	for _, key := range [][]byte{nil, {}, id.Key()[:31]} {
		if err := Verify(&wire.Signed{Signer: key}, nil, ContextMember, key); !errors.Is(err, ErrSigner) {
			t.Errorf("key of %d bytes: %v", len(key), err)
		}
	}
	if err := Verify(nil, nil, ContextMember, id.Key()); !errors.Is(err, ErrSigner) {
		t.Errorf("nil: %v", err)
	}
}

func TestContextAndBodyDoNotRunTogether(t *testing.T) {
	id := newIdentity(t)
	s := Sign(id, nil, "member", []byte("record"))
	s.Body = []byte("ember\x00record")
	if err := Verify(s, nil, "m", id.Key()); !errors.Is(err, ErrSignature) {
		t.Errorf("a part of the context passed for body: %v", err)
	}
}
