package seal

import (
	"bytes"
	"crypto/subtle"
	"fmt"

	"github.com/flynn/noise"
)

// SealTo seals plain for the one agent that has this static key, and proves to
// it who sealed (Noise_X_25519_ChaChaPoly_BLAKE2s). A pending member gets the
// network's secret so.
func SealTo(id Identity, peerStatic, plain []byte) ([]byte, error) {
	return sealTo(id, peerStatic, plain, random32())
}

func sealTo(id Identity, peerStatic, plain []byte, private [32]byte) ([]byte, error) {
	if len(peerStatic) != 32 {
		return nil, fmt.Errorf("seal for a member: its static key has %d bytes, not 32", len(peerStatic))
	}
	c := memberConfig(id)
	c.Initiator, c.PeerStatic = true, bytes.Clone(peerStatic)
	c.Random = bytes.NewReader(private[:])
	state, err := noise.NewHandshakeState(c)
	if err != nil {
		return nil, fmt.Errorf("seal for a member: %w", err)
	}
	sealed, _, _, err := state.WriteMessage(nil, plain)
	if err != nil {
		return nil, fmt.Errorf("seal for the static key %s: %w", Fingerprint(peerStatic), err)
	}
	return sealed, nil
}

// OpenFrom opens what the agent with this static key sealed to us with SealTo.
// It gives ErrForged, or ErrPeer where another agent sealed it. What was sent
// twice opens twice.
func OpenFrom(id Identity, peerStatic, sealed []byte) ([]byte, error) {
	state, err := noise.NewHandshakeState(memberConfig(id))
	if err != nil {
		return nil, fmt.Errorf("open what a member sealed: %w", err)
	}
	plain, _, _, err := state.ReadMessage(nil, sealed)
	if err != nil {
		return nil, ErrForged
	}
	if subtle.ConstantTimeCompare(state.PeerStatic(), peerStatic) != 1 {
		return nil, ErrPeer
	}
	return plain, nil
}

func memberConfig(id Identity) noise.Config {
	return noise.Config{
		CipherSuite:   id.suite(),
		Pattern:       noise.HandshakeX,
		Prologue:      []byte(labelPrologueTo),
		StaticKeypair: dhKey(id.private),
	}
}
