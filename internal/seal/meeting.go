package seal

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/flynn/noise"
	"golang.org/x/crypto/argon2"

	"rendezvous/proto"
)

// Two agents that know nothing of each other but a secret meet by
// Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s: whoever lacks the secret can neither
// read nor write a message of it, and what was recorded stays closed even to
// who learns the secret later. The payloads begin with the flags of the other
// handshake.

// wordIterations and its like are argon2id's (RFC 9106 section 4, the second
// choice: 64 MiB): whoever records a first message can try words on it, and
// pays this for each.
const (
	wordIterations = 3
	wordMemory     = 64 << 10 // KiB
	wordLanes      = 4
)

// SecretOfWord is the secret that a word stands for; it takes a tenth of a second
// on purpose.
func SecretOfWord(word string) (s Secret) {
	copy(s[:], argon2.IDKey([]byte(word), []byte(labelWord), wordIterations, wordMemory, wordLanes, KeySize))
	return s
}

// NewWord makes a word of 80 random bits, as people tell it to each other.
func NewWord() string {
	var b [10]byte
	rand.Read(b[:])
	w := base32Lower.EncodeToString(b[:])
	return strings.Join([]string{w[:4], w[4:8], w[8:12], w[12:]}, "-")
}

// Meeting is our half of such a handshake: its first message is sent until the
// peer's second one comes.
type Meeting struct {
	secret  Secret
	private [32]byte // ephemeral
	payload []byte   // with the flags before it
	state   *noise.HandshakeState
}

// Meet begins one, and gives the first message.
func Meet(secret Secret, payload []byte) (*Meeting, []byte, error) {
	return meet(secret, payload, random32(), ownFlags())
}

func meet(secret Secret, payload []byte, private [32]byte, flags byte) (*Meeting, []byte, error) {
	m := &Meeting{secret: secret, private: private, payload: append([]byte{flags}, payload...)}
	first, err := m.begin()
	if err != nil {
		return nil, nil, fmt.Errorf("begin a handshake by a secret: %w", err)
	}
	return m, first, nil
}

// begin writes the first message: the same one each time.
func (m *Meeting) begin() (first []byte, err error) {
	m.state, err = noise.NewHandshakeState(meetingConfig(m.secret, m.private, true))
	if err != nil {
		return nil, err
	}
	first, _, _, err = m.state.WriteMessage(nil, m.payload)
	return first, err
}

// Finish takes the second message and gives the keys and the peer's payload.
// After an error, which is ErrForged, it may be called again with another
// message.
func (m *Meeting) Finish(second []byte) (Keys, []byte, error) {
	plain, own, peer, err := m.state.ReadMessage(nil, second)
	if err != nil || len(plain) == 0 {
		if _, err := m.begin(); err != nil {
			return Keys{}, nil, err
		}
		return Keys{}, nil, ErrForged
	}
	k := newKeys(m.state, own, peer)
	k.Cipher = agree(m.payload[0], plain[0])
	return k, plain[1:], nil
}

// Met answers a first message with the second, and gives the keys; payload is
// called with the peer's and gives ours, or an error that ends it before it has
// cost much. The error is ErrForged where the sender has another secret. That
// somebody holds a first message does not say that they made it: only what
// arrives under the keys does.
func Met(secret Secret, first []byte, payload func(theirs []byte) ([]byte, error)) (second []byte, k Keys, err error) {
	return met(secret, first, payload, random32(), ownFlags())
}

func met(secret Secret, first []byte, payload func(theirs []byte) ([]byte, error), private [32]byte, flags byte) (second []byte, k Keys, err error) {
	state, err := noise.NewHandshakeState(meetingConfig(secret, private, false))
	if err != nil {
		return nil, Keys{}, fmt.Errorf("answer a handshake by a secret: %w", err)
	}
	plain, _, _, err := state.ReadMessage(nil, first)
	if err != nil || len(plain) == 0 {
		return nil, Keys{}, ErrForged
	}
	ours, err := payload(plain[1:])
	if err != nil {
		return nil, Keys{}, err
	}
	second, peer, own, err := state.WriteMessage(nil, append([]byte{flags}, ours...))
	if err != nil {
		return nil, Keys{}, fmt.Errorf("answer a handshake by a secret: %w", err)
	}
	k = newKeys(state, peer, own)
	k.Send, k.Receive = k.Receive, k.Send
	k.Cipher = agree(plain[0], flags)
	return second, k, nil
}

func meetingConfig(secret Secret, private [32]byte, initiator bool) noise.Config {
	return noise.Config{
		CipherSuite:           Identity{}.suite(), // nobody has a static key
		Random:                bytes.NewReader(private[:]),
		Pattern:               noise.HandshakeNN,
		Initiator:             initiator,
		Prologue:              []byte(labelMeeting),
		PresharedKey:          secret[:],
		PresharedKeyPlacement: 0,
	}
}

// CallMAC is the MAC of a call: the first 16 bytes of HMAC-SHA256.
func CallMAC(secret Secret, c proto.Call) [16]byte {
	key := deriveKey(secret[:], nil, labelCall)
	h := hmac.New(sha256.New, key[:])
	h.Write(proto.AppendCallBody(nil, c))
	return [16]byte(h.Sum(nil))
}

// CheckCall says in constant time whether c carries its MAC.
func CheckCall(secret Secret, c proto.Call) bool {
	want := CallMAC(secret, c)
	return hmac.Equal(want[:], c.MAC[:])
}
