package seal

import (
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base32"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"time"
)

// IdentitySize is the size of an identity in a file, in bytes: the Ed25519
// seed, then the X25519 private key.
const IdentitySize = ed25519.SeedSize + 32

// Identity is who an agent is: an Ed25519 key that signs and is the
// certificate of its control connection, and an X25519 key for handshakes.
// Only NewIdentity and UnmarshalBinary make a usable one.
type Identity struct {
	sign    ed25519.PrivateKey
	private *ecdh.PrivateKey // X25519
}

// NewIdentity makes a new one at random.
func NewIdentity() (Identity, error) {
	var b [IdentitySize]byte
	rand.Read(b[:])
	var id Identity
	err := id.UnmarshalBinary(b[:])
	return id, err
}

// Key is the public Ed25519 key: who the agent is to everybody.
func (id Identity) Key() ed25519.PublicKey {
	if len(id.sign) != ed25519.PrivateKeySize {
		return nil
	}
	return id.sign.Public().(ed25519.PublicKey)
}

// StaticKey is the public X25519 key, 32 bytes.
func (id Identity) StaticKey() []byte {
	if id.private == nil {
		return nil
	}
	return id.private.PublicKey().Bytes()
}

// String is the fingerprint, so that no log shows a private key.
func (id Identity) String() string { return "identity " + Fingerprint(id.Key()) }

// GoString is String for %#v.
func (id Identity) GoString() string { return id.String() }

// MarshalBinary gives IdentitySize bytes to be kept secret.
func (id Identity) MarshalBinary() ([]byte, error) {
	if id.Key() == nil {
		return nil, errors.New("this identity is empty; make one with NewIdentity")
	}
	return append(id.sign.Seed(), id.private.Bytes()...), nil
}

// UnmarshalBinary reads what MarshalBinary wrote.
func (id *Identity) UnmarshalBinary(b []byte) error {
	if len(b) != IdentitySize {
		return fmt.Errorf("an identity has %d bytes, this has %d; is the file damaged?", IdentitySize, len(b))
	}
	private, err := ecdh.X25519().NewPrivateKey(b[ed25519.SeedSize:])
	if err != nil {
		return fmt.Errorf("the X25519 half of the identity: %w", err)
	}
	id.sign = ed25519.NewKeyFromSeed(b[:ed25519.SeedSize])
	id.private = private
	return nil
}

// Certificate is the self-signed certificate of the Ed25519 key, for both
// ends of a control connection. It is the same at each call and never
// expires, because what counts is the key: the far end pins it or looks it up.
func (id Identity) Certificate() (tls.Certificate, error) {
	key := id.Key()
	if key == nil {
		return tls.Certificate{}, errors.New("this identity is empty; make one with NewIdentity")
	}
	serial := sha256.Sum256(key)
	serial[0] = serial[0]&0x7f | 0x40 // positive and of full length (RFC 5280 section 4.1.2.2)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial[:16]),
		Subject:      pkix.Name{CommonName: Fingerprint(key)},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 section 4.1.2.5: no end known
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key, id.sign)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign the own certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read the own certificate back: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: id.sign, Leaf: leaf}, nil
}

var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// fingerprintSize is 80 bits: enough that nobody finds a second key for a
// fingerprint, and 16 characters are few enough to read out.
const fingerprintSize = 10

// Fingerprint is a key as people compare it, such as
// "k7qy-3mfa-x2ce-p5wd".
func Fingerprint(key []byte) string {
	var b [fingerprintSize]byte
	derive(b[:], key, nil, labelFingerprint)
	s := base32Lower.EncodeToString(b[:])
	return strings.Join([]string{s[:4], s[4:8], s[8:12], s[12:]}, "-")
}
