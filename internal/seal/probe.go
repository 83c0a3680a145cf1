package seal

import (
	"crypto/cipher"
	"slices"

	"rendezvous/proto"
)

// ProbeKeys seal and open the probes of one session or raw flow. They exist as
// soon as the first handshake message does, so that probes need not wait for
// the second. The cipher is ChaCha20-Poly1305 always. May be used from many
// goroutines at once.
type ProbeKeys struct {
	Local  proto.Token // what the peer's probes to us carry
	Remote proto.Token // what our probes carry
	seal   cipher.AEAD
	open   cipher.AEAD
}

// DeriveProbeKeys makes the keys from the initiator's seed (32 random bytes)
// and the network's secret. A seed serves once.
func DeriveProbeKeys(seed []byte, secret Secret, initiator bool) ProbeKeys {
	k := ProbeKeys{
		seal: ChaCha20Poly1305.aead(deriveKey(seed, secret[:], labelProbeInitiator)),
		open: ChaCha20Poly1305.aead(deriveKey(seed, secret[:], labelProbeResponder)),
	}
	derive(k.Local[:], seed, secret[:], labelTokenInitiator)
	derive(k.Remote[:], seed, secret[:], labelTokenResponder)
	if !initiator {
		k.Local, k.Remote = k.Remote, k.Local
		k.seal, k.open = k.open, k.seal
	}
	return k
}

// Seal appends a probe, or the answer to one, to dst: proto.ProbeSize bytes,
// or size where that is more. A counter must never come twice for probes, nor
// twice for answers.
func (k *ProbeKeys) Seal(dst []byte, answer bool, counter uint64, body proto.ProbeBody, size int) []byte {
	start, size := len(dst), max(size, proto.ProbeSize)
	dst = slices.Grow(dst, size)
	dst = proto.AppendProbeHeader(dst, proto.ProbeHeader{Answer: answer, Token: k.Remote, Counter: counter})
	text := len(dst)
	dst = proto.AppendProbeBody(dst, body)
	end := start + size - proto.TagSize
	clear(dst[len(dst):end])
	n := borrowNonce(probeNonce(answer), counter)
	dst = k.seal.Seal(dst[:text], n[:], dst[text:end], dst[start:text])
	nonces.Put(n)
	return dst
}

// Open opens a probe or an answer of the peer. Its errors are those of
// proto.ParseProbeHeader, and ErrForged. It knows no replays: see Window.
func (k *ProbeKeys) Open(datagram []byte) (proto.ProbeHeader, proto.ProbeBody, error) {
	h, err := proto.ParseProbeHeader(datagram)
	if err != nil {
		return proto.ProbeHeader{}, proto.ProbeBody{}, err
	}
	if h.Token != k.Local {
		return proto.ProbeHeader{}, proto.ProbeBody{}, ErrForged
	}
	n := borrowNonce(probeNonce(h.Answer), h.Counter)
	plain, err := k.open.Open(nil, n[:], datagram[proto.ProbeHeaderSize:], datagram[:proto.ProbeHeaderSize])
	nonces.Put(n)
	if err != nil {
		return proto.ProbeHeader{}, proto.ProbeBody{}, ErrForged
	}
	body, err := proto.ParseProbeBody(plain)
	return h, body, err
}

// probeNonce keeps probes and answers apart, so that each may count from 0.
func probeNonce(answer bool) uint32 {
	if answer {
		return 1
	}
	return 0
}
