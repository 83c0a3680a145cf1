package seal

import (
	"crypto/cipher"
	"crypto/rand"

	"golang.org/x/crypto/chacha20poly1305"
)

// Secret is a network's secret. Its members share it; the coordinator never
// sees it.
type Secret [KeySize]byte

// NewSecret makes one at random.
func NewSecret() Secret {
	return random32()
}

// random32 draws 32 bytes. rand.Read never returns an error: where the system
// has no random bytes, it ends the program.
func random32() (b [32]byte) {
	rand.Read(b[:])
	return b
}

// ID is a public name of the network, derived from its secret.
func (s Secret) ID() string {
	var b [fingerprintSize]byte
	derive(b[:], s[:], nil, labelNetworkID)
	return base32Lower.EncodeToString(b[:])
}

// String is the network's public name, so that no log shows the secret.
func (s Secret) String() string { return "secret of network " + s.ID() }

// GoString is String for %#v.
func (s Secret) GoString() string { return s.String() }

// SealStanding seals what every member may read and the coordinator may not:
// the standing candidates.
func SealStanding(secret Secret, plain []byte) []byte {
	return sealRandom(deriveKey(secret[:], nil, labelStanding), plain)
}

// OpenStanding opens what SealStanding sealed, or gives ErrForged.
func OpenStanding(secret Secret, sealed []byte) ([]byte, error) {
	return openRandom(deriveKey(secret[:], nil, labelStanding), sealed)
}

// SealMessage seals a message between two agents that travels outside their
// datagrams, under a key of theirs (Keys.Export).
func SealMessage(key [KeySize]byte, plain []byte) []byte {
	return sealRandom(deriveKey(key[:], nil, labelMessage), plain)
}

// OpenMessage opens what SealMessage sealed, or gives ErrForged. Both
// directions share the key, so an agent can be sent its own message back: what
// stands in it must say whose it is.
func OpenMessage(key [KeySize]byte, sealed []byte) ([]byte, error) {
	return openRandom(deriveKey(key[:], nil, labelMessage), sealed)
}

// sealRandom is XChaCha20-Poly1305: a nonce of 24 bytes, long enough to be
// drawn at random, then ciphertext and tag.
func sealRandom(key [KeySize]byte, plain []byte) []byte {
	var nonce [chacha20poly1305.NonceSizeX]byte
	rand.Read(nonce[:])
	return sealNonce(key, nonce, plain)
}

func sealNonce(key [KeySize]byte, nonce [chacha20poly1305.NonceSizeX]byte, plain []byte) []byte {
	b := make([]byte, len(nonce), len(nonce)+len(plain)+chacha20poly1305.Overhead)
	copy(b, nonce[:])
	return aeadX(key).Seal(b, nonce[:], plain, nil)
}

func openRandom(key [KeySize]byte, sealed []byte) ([]byte, error) {
	const n = chacha20poly1305.NonceSizeX
	if len(sealed) < n {
		return nil, ErrForged
	}
	plain, err := aeadX(key).Open(nil, sealed[:n], sealed[n:], nil)
	if err != nil {
		return nil, ErrForged
	}
	return plain, nil
}

func aeadX(key [KeySize]byte) cipher.AEAD { return must(chacha20poly1305.NewX(key[:])) }
