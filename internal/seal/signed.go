package seal

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"errors"

	"rendezvous/proto"
)

// The contexts of what agents sign. A signature under one never counts under
// another.
const (
	ContextMember     = "rendezvous member v1"
	ContextRevocation = "rendezvous revocation v1"
	ContextCandidates = "rendezvous candidates v1"
)

// The errors of Verify, in the order in which it looks.
var (
	ErrSigner    = errors.New("it was signed by another key than the one expected")
	ErrSignature = errors.New("its signature is wrong: it was changed after it was signed")
	ErrMAC       = errors.New("its signer has not proved to know the network's secret")
)

// Sign signs body, and authenticates it under the network's secret where there
// is one yet.
func Sign(id Identity, secret *Secret, context string, body []byte) *proto.Signed {
	s := &proto.Signed{Body: bytes.Clone(body), Signer: id.Key()}
	s.Signature = ed25519.Sign(id.sign, signedBytes(context, s.Body))
	if secret != nil {
		s.Mac = signedMAC(secret, context, s)
	}
	return s
}

// Verify says whether key signed s in this context, and unless secret is nil
// whether the signer knew the secret: nil, ErrSigner, ErrSignature or ErrMAC.
func Verify(s *proto.Signed, secret *Secret, context string, key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize || !bytes.Equal(s.GetSigner(), key) {
		return ErrSigner
	}
	if !ed25519.Verify(key, signedBytes(context, s.Body), s.Signature) {
		return ErrSignature
	}
	if secret != nil && !hmac.Equal(s.Mac, signedMAC(secret, context, s)) {
		return ErrMAC
	}
	return nil
}

// signedBytes is what is signed. No context holds a zero byte, so no two
// contexts and bodies make the same bytes.
func signedBytes(context string, body []byte) []byte {
	return append(append([]byte(context), 0), body...)
}

// signedMAC covers the signer too. Else whoever lacks the secret could sign a
// member's body with a key of their own and keep the member's MAC.
func signedMAC(secret *Secret, context string, s *proto.Signed) []byte {
	key := deriveKey(secret[:], nil, labelMAC)
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte(context))
	h.Write([]byte{0})
	h.Write(s.Signer)
	h.Write(s.Body)
	return h.Sum(nil)
}
