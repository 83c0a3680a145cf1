package seal

import (
	"crypto/ecdh"
	"crypto/subtle"
	"io"

	"github.com/flynn/noise"
)

// curve is X25519 in one handshake. From the bytes of a private key Go first
// makes the public one, which takes as long as the agreement itself: so the two
// private keys of a handshake are kept as Go's.
type curve struct {
	noise.DHFunc
	static    *ecdh.PrivateKey
	ephemeral *ecdh.PrivateKey // the last one
}

// GenerateKeypair makes the ephemeral key.
func (c *curve) GenerateKeypair(random io.Reader) (noise.DHKey, error) {
	var seed [32]byte
	if _, err := io.ReadFull(random, seed[:]); err != nil {
		return noise.DHKey{}, err
	}
	key, err := ecdh.X25519().NewPrivateKey(seed[:])
	if err != nil {
		return noise.DHKey{}, err
	}
	c.ephemeral = key
	return dhKey(key), nil
}

// DH is the agreement of a private key of ours with a public one.
func (c *curve) DH(private, public []byte) ([]byte, error) {
	for _, key := range []*ecdh.PrivateKey{c.ephemeral, c.static} {
		if key == nil || subtle.ConstantTimeCompare(key.Bytes(), private) != 1 {
			continue
		}
		theirs, err := ecdh.X25519().NewPublicKey(public)
		if err != nil {
			return nil, err
		}
		return key.ECDH(theirs)
	}
	return c.DHFunc.DH(private, public)
}

func dhKey(key *ecdh.PrivateKey) noise.DHKey {
	if key == nil { // of an empty identity
		return noise.DHKey{}
	}
	return noise.DHKey{Private: key.Bytes(), Public: key.PublicKey().Bytes()}
}

func (id Identity) suite() noise.CipherSuite {
	return noise.NewCipherSuite(&curve{DHFunc: noise.DH25519, static: id.private}, noise.CipherChaChaPoly, noise.HashBLAKE2s)
}
