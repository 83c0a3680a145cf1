package rendezvous

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/subtle"

	"github.com/quic-go/quic-go"
)

// connIDs makes the IDs of the coordinator's QUIC connections so that it knows
// them again: what comes for one of them is nobody else's, whatever else shares
// the port. To everybody else they are random. The key is the same after a
// restart.
type connIDs struct{ block cipher.Block }

// idNonce is how much of an ID is random; the rest is a tag of it.
const idNonce = 8

func newConnIDs(key ed25519.PrivateKey, purpose string) (*connIDs, error) {
	secret := derive(key, purpose)
	block, err := aes.NewCipher(secret[:])
	if err != nil {
		return nil, err
	}
	return &connIDs{block}, nil
}

func (c *connIDs) tag(nonce []byte) (out [aes.BlockSize]byte) {
	copy(out[:], nonce)
	c.block.Encrypt(out[:], out[:])
	return out
}

// GenerateConnectionID is that of quic.ConnectionIDGenerator.
func (c *connIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	var id [idLength]byte
	if _, err := rand.Read(id[:idNonce]); err != nil {
		return quic.ConnectionID{}, err
	}
	tag := c.tag(id[:idNonce])
	copy(id[idNonce:], tag[:])
	return quic.ConnectionIDFromBytes(id[:]), nil
}

// ConnectionIDLen is that of quic.ConnectionIDGenerator.
func (c *connIDs) ConnectionIDLen() int { return idLength }

// made says whether an ID is one of ours.
func (c *connIDs) made(id []byte) bool {
	tag := c.tag(id[:idNonce])
	return subtle.ConstantTimeCompare(tag[:idLength-idNonce], id[idNonce:idLength]) == 1
}

// Where the destination's ID stands in a QUIC packet (RFC 9000 section 17).
const (
	shortID = 1
	longID  = 1 + 4 + 1
)

// owns says whether a QUIC packet is for an ID that we made.
func (c *connIDs) owns(d []byte) bool {
	switch {
	case d[0]&0x80 == 0:
		return len(d) >= shortID+idLength && c.made(d[shortID:])
	case len(d) < longID+idLength || d[longID-1] != idLength:
		return false
	}
	return c.made(d[longID:])
}
