//go:build linux

package main

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

// box seals datagrams, where it has a cipher. One goroutine seals, one opens.
type box struct {
	aead  cipher.AEAD
	fresh uint64 // the next nonce's
	out   [1 << 16]byte
}

var errShort = errors.New("a datagram without a nonce")

const (
	nonceSize = 12
	keySize   = 32
)

// newAEAD has a key that both halves know.
func newAEAD() (cipher.AEAD, error) {
	block, err := aes.NewCipher(make([]byte, keySize))
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal gives nonce, ciphertext and tag; they stay until the next call.
func (b *box) seal(plain []byte) []byte {
	if b.aead == nil {
		return plain
	}
	nonce := b.out[:nonceSize]
	b.fresh++
	binary.BigEndian.PutUint64(nonce[nonceSize-8:], b.fresh)
	return b.aead.Seal(nonce, nonce, plain, nil)
}

// open gives what seal was given, in place.
func (b *box) open(sealed []byte) ([]byte, error) {
	if b.aead == nil {
		return sealed, nil
	}
	if len(sealed) < nonceSize {
		return nil, errShort
	}
	return b.aead.Open(sealed[nonceSize:nonceSize], sealed[:nonceSize], sealed[nonceSize:], nil)
}
