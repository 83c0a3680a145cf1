package rendezvous

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"time"
)

// ALPN names the control protocol in the TLS handshake.
const ALPN = "rdv/1"

// Key is an agent's public Ed25519 key.
type Key [ed25519.PublicKeySize]byte

func keyOf(b []byte) (k Key, ok bool) {
	return k, copy(k[:], b) == len(k) && len(b) == len(k)
}

// Pin is what a join link says of the coordinator's key: SHA-256 of its
// SubjectPublicKeyInfo in DER.
func Pin(key ed25519.PublicKey) ([32]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return [32]byte{}, fmt.Errorf("encode the coordinator's key: %w", err)
	}
	return sha256.Sum256(der), nil
}

// PinError says that whoever answered at the coordinator's address has another
// key than the one that was pinned.
type PinError struct {
	Addr      string
	Want, Got [32]byte
}

func (e *PinError) Error() string {
	b64 := base64.RawURLEncoding.EncodeToString
	return fmt.Sprintf("the coordinator at %s has the key %s, but %s was pinned when this agent joined: either its state folder was lost, and every agent must join again with a new link, or somebody stands between; nothing was sent to it",
		e.Addr, b64(e.Got[:]), b64(e.Want[:]))
}

// selfSigned is a certificate for key. Its dates mean nothing, because the key
// is pinned.
func selfSigned(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "rendezvous"},
		NotBefore:    time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280 section 4.1.2.5: no end known
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("sign the coordinator's certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// derive makes a key for another purpose from the coordinator's, so that it is
// the same after a restart.
func derive(key ed25519.PrivateKey, purpose string) (out [32]byte) {
	h := hmac.New(sha256.New, key.Seed())
	h.Write([]byte("rendezvous coordinator v1 " + purpose))
	h.Sum(out[:0])
	return out
}

var errClientKey = errors.New("the agent's certificate is not a single one of an Ed25519 key")

// serverTLS takes any client whose certificate is self-made: its key is its
// identity. There is no resumption, as a ticket would outlive a revocation.
func serverTLS(key ed25519.PrivateKey) (*tls.Config, error) {
	cert, err := selfSigned(key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates:           []tls.Certificate{cert},
		ClientAuth:             tls.RequireAnyClientCert,
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		SessionTicketsDisabled: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := clientKey(cs)
			return err
		},
	}, nil
}

// clientKey is the key that the client proved to have: TLS checked that it
// signed the handshake.
func clientKey(cs tls.ConnectionState) (Key, error) {
	if len(cs.PeerCertificates) != 1 {
		return Key{}, errClientKey
	}
	public, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return Key{}, errClientKey
	}
	key, ok := keyOf(public)
	if !ok {
		return Key{}, errClientKey
	}
	return key, nil
}

// clientTLS trusts the one key that was pinned. The name in the certificate
// and the certificate's issuer say nothing, so their check is off; the check
// of the handshake's signature is not.
func clientTLS(pin [32]byte, cert tls.Certificate, addr string, wrong func(*PinError)) *tls.Config {
	return &tls.Config{
		Certificates:       []tls.Certificate{cert},
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{ALPN},
		ServerName:         "rendezvous",
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) == 0 {
				return errors.New("the coordinator showed no certificate")
			}
			got := sha256.Sum256(cs.PeerCertificates[0].RawSubjectPublicKeyInfo)
			if got == pin {
				return nil
			}
			err := &PinError{Addr: addr, Want: pin, Got: got}
			wrong(err)
			return err
		},
	}
}
