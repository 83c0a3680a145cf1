package seal

import (
	"bytes"
	"errors"
	"testing"
)

func TestSealedToAMemberOpensForItAlone(t *testing.T) {
	from, to, other := newIdentity(t), newIdentity(t), newIdentity(t)
	secret := NewSecret()
	sealed, err := SealTo(from, to.StaticKey(), secret[:])
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenFrom(to, from.StaticKey(), sealed)
	if err != nil || !bytes.Equal(got, secret[:]) {
		t.Fatalf("%x, %v", got, err)
	}
	if _, err := OpenFrom(other, from.StaticKey(), sealed); !errors.Is(err, ErrForged) {
		t.Errorf("opened by another: %v", err)
	}
	for _, peer := range [][]byte{other.StaticKey(), nil, {1}} {
		if _, err := OpenFrom(to, peer, sealed); !errors.Is(err, ErrPeer) {
			t.Errorf("taken for another's: %v", err)
		}
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := OpenFrom(to, from.StaticKey(), bad); !errors.Is(err, ErrForged) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := OpenFrom(to, from.StaticKey(), sealed[:i]); !errors.Is(err, ErrForged) {
			t.Errorf("cut to %d bytes: %v", i, err)
		}
	}
}

func TestSealToRefusesABadKey(t *testing.T) {
	for name, key := range badStatics {
		if _, err := SealTo(newIdentity(t), key, nil); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}
