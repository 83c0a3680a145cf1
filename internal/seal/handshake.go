package seal

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/flynn/noise"
)

// ErrPeer is the error where a message is genuine but of another peer.
var ErrPeer = errors.New("it comes from another peer than the one expected")

// Keys are what a handshake gives to both ends; Send of the one is Receive of
// the other.
type Keys struct {
	Send    [KeySize]byte // for NewSealer
	Receive [KeySize]byte // for NewOpener
	Export  [KeySize]byte // the same on both ends, for SealMessage
	Cipher  Cipher        // of the datagrams, the same on both ends
}

// String hides the keys from logs.
func (k Keys) String() string { return "keys for " + k.Cipher.String() }

// GoString is String for %#v.
func (k Keys) GoString() string { return k.String() }

// The handshake is Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s with the network's
// secret as psk. Its first byte of payload, in both messages, holds these
// flags; the caller's payload follows.
const flagAES = 0x01 // the sender's CPU does AES-GCM in hardware

func ownFlags() byte {
	if fastAES() {
		return flagAES
	}
	return 0
}

// Initiator has sent the first message of a handshake and waits for the second.
type Initiator struct {
	config  noise.Config
	private [32]byte // ephemeral
	payload []byte   // with the flags before it
	state   *noise.HandshakeState
}

// Initiate begins a handshake with the agent that has this static key, and
// gives the first message. The payload is sealed for that agent alone. But
// whoever sends the message again makes it arrive again: the payload needs a
// timestamp, which its receiver compares.
func Initiate(id Identity, peerStatic []byte, secret Secret, payload []byte) (*Initiator, []byte, error) {
	return initiate(id, peerStatic, secret, payload, random32(), ownFlags())
}

func initiate(id Identity, peerStatic []byte, secret Secret, payload []byte, private [32]byte, flags byte) (*Initiator, []byte, error) {
	if len(peerStatic) != 32 {
		return nil, nil, fmt.Errorf("begin a handshake: the peer's static key has %d bytes, not 32", len(peerStatic))
	}
	c := handshakeConfig(id, secret)
	c.Initiator, c.PeerStatic = true, bytes.Clone(peerStatic)
	i := &Initiator{config: c, private: private, payload: append([]byte{flags}, payload...)}
	msg1, err := i.begin()
	if err != nil {
		return nil, nil, fmt.Errorf("begin a handshake with the static key %s: %w", Fingerprint(peerStatic), err)
	}
	return i, msg1, nil
}

// begin writes the first message: the same one each time.
func (i *Initiator) begin() ([]byte, error) {
	c := i.config
	c.Random = bytes.NewReader(i.private[:])
	state, err := noise.NewHandshakeState(c)
	if err != nil {
		return nil, err
	}
	msg1, _, _, err := state.WriteMessage(nil, i.payload)
	i.state = state
	return msg1, err
}

// Finish takes the second message and gives the keys and the responder's
// payload. After an error it may be called again with another message: a
// forged one does no harm. ErrForged is also what a responder with another
// network's secret causes.
func (i *Initiator) Finish(msg2 []byte) (Keys, []byte, error) {
	plain, own, peer, err := i.state.ReadMessage(nil, msg2)
	if err != nil || len(plain) == 0 {
		// A message with a bad public key leaves the state half changed.
		if _, err := i.begin(); err != nil {
			return Keys{}, nil, err
		}
		return Keys{}, nil, ErrForged
	}
	k := newKeys(i.state, own, peer)
	k.Cipher = agree(i.payload[0], plain[0])
	return k, plain[1:], nil
}

// Responder has taken the first message of a handshake. Before it answers, the
// caller must look PeerStatic up among the members.
type Responder struct {
	PeerStatic []byte // the initiator's X25519 key, proven
	Payload    []byte // the initiator's
	flags      byte
	own        byte
	state      *noise.HandshakeState
}

// Respond opens the first message of a handshake, or gives ErrForged.
func Respond(id Identity, secret Secret, msg1 []byte) (*Responder, error) {
	return respond(id, secret, msg1, random32(), ownFlags())
}

func respond(id Identity, secret Secret, msg1 []byte, private [32]byte, flags byte) (*Responder, error) {
	c := handshakeConfig(id, secret)
	c.Random = bytes.NewReader(private[:])
	state, err := noise.NewHandshakeState(c)
	if err != nil {
		return nil, fmt.Errorf("answer a handshake: %w", err)
	}
	plain, _, _, err := state.ReadMessage(nil, msg1)
	if err != nil || len(plain) == 0 {
		return nil, ErrForged
	}
	return &Responder{
		PeerStatic: bytes.Clone(state.PeerStatic()),
		Payload:    plain[1:],
		flags:      plain[0],
		own:        flags,
		state:      state,
	}, nil
}

// Finish gives the second message and the keys. It may be called once. Only
// when something arrives under these keys has the initiator proved to be alive
// and to know the secret.
func (r *Responder) Finish(payload []byte) (msg2 []byte, k Keys, err error) {
	msg2, peer, own, err := r.state.WriteMessage(nil, append([]byte{r.own}, payload...))
	if err != nil {
		return nil, Keys{}, fmt.Errorf("answer a handshake of the static key %s: %w", Fingerprint(r.PeerStatic), err)
	}
	k = newKeys(r.state, peer, own)
	k.Send, k.Receive = k.Receive, k.Send
	k.Cipher = agree(r.flags, r.own)
	return msg2, k, nil
}

func handshakeConfig(id Identity, secret Secret) noise.Config {
	return noise.Config{
		CipherSuite:           id.suite(),
		Pattern:               noise.HandshakeIK,
		Prologue:              []byte(labelPrologue),
		PresharedKey:          secret[:],
		PresharedKeyPlacement: 2,
		StaticKeypair:         dhKey(id.private),
	}
}

// agree is the cipher that follows from both sides' flags.
func agree(initiator, responder byte) Cipher {
	if initiator&responder&flagAES != 0 {
		return AES256GCM
	}
	return ChaCha20Poly1305
}

// newKeys derives the initiator's keys from what the handshake split into,
// salted with the hash of all that was said in it.
func newKeys(state *noise.HandshakeState, initiator, responder *noise.CipherState) Keys {
	a, b := initiator.UnsafeKey(), responder.UnsafeKey()
	both := append(a[:], b[:]...)
	salt := state.ChannelBinding()
	return Keys{
		Send:    deriveKey(both, salt, labelDataInitiator),
		Receive: deriveKey(both, salt, labelDataResponder),
		Export:  deriveKey(both, salt, labelExport),
	}
}
