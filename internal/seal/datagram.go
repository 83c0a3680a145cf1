package seal

import (
	"crypto/cipher"
	"encoding/binary"
	"slices"
	"sync"

	"rendezvous/proto"
)

const nonceSize = 12

// A nonce handed to a cipher.AEAD escapes to the heap, because the compiler
// can't see through the interface. Lending them costs no allocation and 11 of
// the 430 ns that sealing 1400 bytes takes (AES-256-GCM, 2026-11).
var nonces = sync.Pool{New: func() any { return new([nonceSize]byte) }}

// borrowNonce gives the nonce of a datagram: flow (4 bytes), counter (8). So
// both are authenticated, and no two flows share a nonce.
func borrowNonce(high uint32, counter uint64) *[nonceSize]byte {
	n := nonces.Get().(*[nonceSize]byte)
	binary.BigEndian.PutUint32(n[:], high)
	binary.BigEndian.PutUint64(n[4:], counter)
	return n
}

// Sealer seals datagrams under one key. It may be used from many goroutines
// at once.
type Sealer struct{ aead cipher.AEAD }

// NewSealer makes one for a key that no other Sealer has.
func NewSealer(key [KeySize]byte, c Cipher) *Sealer { return &Sealer{c.aead(key)} }

// Seal appends a sealed datagram to dst: header, ciphertext and tag, together
// proto.Overhead bytes more than plain. It allocates only where dst has no
// room. A pair of flow and counter must never come twice under a key. The room
// behind dst must not overlap plain, unless the ciphertext falls exactly on it.
func (s *Sealer) Seal(dst []byte, epoch uint8, flow uint16, counter uint64, plain []byte) []byte {
	n := borrowNonce(uint32(flow), counter)
	start := len(dst)
	dst = slices.Grow(dst, proto.Overhead+len(plain))[:start+proto.HeaderSize]
	proto.PutHeader(dst[start:], epoch, flow, counter)
	dst = s.aead.Seal(dst, n[:], plain, nil)
	nonces.Put(n)
	return dst
}

// Opener opens what the peer's Sealer sealed. It may be used from many
// goroutines at once.
type Opener struct{ aead cipher.AEAD }

// NewOpener makes one for a key.
func NewOpener(key [KeySize]byte, c Cipher) *Opener { return &Opener{c.aead(key)} }

// Open appends the plaintext of a datagram (with its header) to dst, and
// allocates only where dst has no room. The flow is the header's, the counter
// its completed one. It returns dst as it was with proto.ErrShort or
// ErrForged. It knows no replays: see Window.
func (o *Opener) Open(dst, datagram []byte, flow uint16, counter uint64) ([]byte, error) {
	if len(datagram) < proto.Overhead {
		return dst, proto.ErrShort
	}
	n := borrowNonce(uint32(flow), counter)
	plain, err := o.aead.Open(dst, n[:], datagram[proto.HeaderSize:], nil)
	nonces.Put(n)
	if err != nil {
		return dst, ErrForged
	}
	return plain, nil
}
