// Package seal holds the cryptography: identities and what they sign, the
// handshake, the sealed datagram, the probe, the bind and the replay window.
// Keys and bytes go in, bytes come out: it does no I/O, starts no goroutine
// and knows no paths. The key schedule is written down in proto/SPEC.md.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/sys/cpu"
)

// ErrForged is the error of everything that does not open: it was changed on
// its way, or sealed under another key, flow or counter.
var ErrForged = errors.New("it does not open under this key: it was changed, or sealed by somebody else")

// KeySize is the size of every symmetric key here, in bytes.
const KeySize = 32

// Cipher is the AEAD of a session's datagrams.
type Cipher uint8

// The ciphers of a session: AES-256-GCM where the CPUs of both agents do it
// in hardware, else ChaCha20-Poly1305. Both have nonces of 12 bytes and tags
// of 16. The handshake settles which.
const (
	ChaCha20Poly1305 Cipher = iota
	AES256GCM
)

func (c Cipher) String() string {
	switch c {
	case ChaCha20Poly1305:
		return "ChaCha20-Poly1305"
	case AES256GCM:
		return "AES-256-GCM"
	}
	return fmt.Sprintf("cipher-%d", uint8(c))
}

// fastAES says whether this CPU has the instructions that Go's AES-GCM uses;
// without them it is slow and its table look-ups leak through timing. The
// list is that of crypto/tls.
func fastAES() bool {
	switch runtime.GOARCH {
	case "amd64":
		return cpu.X86.HasAES && cpu.X86.HasPCLMULQDQ && cpu.X86.HasSSE41 && cpu.X86.HasSSSE3
	case "arm64":
		return cpu.ARM64.HasAES && cpu.ARM64.HasPMULL
	case "s390x":
		return cpu.S390X.HasAES && cpu.S390X.HasAESCTR && cpu.S390X.HasGHASH
	}
	return runtime.GOARCH == "ppc64" || runtime.GOARCH == "ppc64le"
}

// aead makes the cipher for a key. Its constructors refuse nothing but a key
// of another size, which the type excludes.
func (c Cipher) aead(key [KeySize]byte) cipher.AEAD {
	if c == AES256GCM {
		return must(cipher.NewGCM(must(aes.NewCipher(key[:]))))
	}
	return must(chacha20poly1305.New(key[:]))
}

// The labels of the key schedule. No two uses share one, so that a key never
// serves two purposes.
const (
	labelPrologue       = "rdv/1 handshake"
	labelPrologueTo     = "rdv/1 sealed to a member"
	labelNetworkID      = "rdv/1 network id"
	labelMAC            = "rdv/1 signed mac"
	labelStanding       = "rdv/1 standing"
	labelMessage        = "rdv/1 message"
	labelFingerprint    = "rdv/1 fingerprint"
	labelDataInitiator  = "rdv/1 data from initiator"
	labelDataResponder  = "rdv/1 data from responder"
	labelExport         = "rdv/1 export"
	labelProbeInitiator = "rdv/1 probe from initiator"
	labelProbeResponder = "rdv/1 probe from responder"
	labelTokenInitiator = "rdv/1 token of initiator"
	labelTokenResponder = "rdv/1 token of responder"
	labelLegAgent       = "rdv/1 public leg from agent"
	labelLegCoordinator = "rdv/1 public leg from coordinator"
	labelMeeting        = "rdv/1 meeting"
	labelWord           = "rdv/1 secret of a word"
	labelCall           = "rdv/1 call"
)

// derive fills out by HKDF-SHA256 (RFC 5869).
func derive(out, secret, salt []byte, label string) {
	copy(out, must(hkdf.Key(sha256.New, secret, salt, label, len(out))))
}

// deriveKey is derive for a key.
func deriveKey(secret, salt []byte, label string) (key [KeySize]byte) {
	derive(key[:], secret, salt, label)
	return key
}

// must takes the result of a constructor that fails only where its caller is
// wrong, for example about the size of a key.
func must[T any](v T, err error) T {
	if err != nil {
		panic(fmt.Errorf("seal: impossible: %w", err))
	}
	return v
}
