package seal

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/flynn/noise"
)

// The kept keys agree as those made anew from their bytes do.
func TestCurveAgreesWithNoise(t *testing.T) {
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	c := &curve{DHFunc: noise.DH25519, static: id.private}
	ephemeral, err := c.GenerateKeypair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := noise.DH25519.GenerateKeypair(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, own := range map[string]noise.DHKey{"static": dhKey(id.private), "ephemeral": ephemeral, "foreign": other} {
		peer, err := noise.DH25519.GenerateKeypair(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.DH(own.Private, peer.Public)
		want, err2 := noise.DH25519.DH(peer.Private, own.Public)
		if err != nil || err2 != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %x %v, want %x %v", name, got, err, want, err2)
		}
		if _, err := c.DH(own.Private, make([]byte, 32)); err == nil {
			t.Errorf("%s: it agrees with the point of low order", name)
		}
	}
}

// A handshake with an empty identity is an error, not a panic.
func TestCurveOfNobody(t *testing.T) {
	if _, _, err := Initiate(Identity{}, make([]byte, 32), NewSecret(), nil); err == nil {
		t.Error("an empty identity begins a handshake")
	}
}
