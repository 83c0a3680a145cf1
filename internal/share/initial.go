package share

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"

	"golang.org/x/crypto/cryptobyte"
)

// A client's Initial packet of QUIC is sealed under keys that anybody can
// derive (RFC 9001 section 5.2): what it carries of a ClientHello is as open as
// over TCP.

// leastInitial is the least datagram that a client's Initial may come in (RFC
// 9000 section 14.1).
const leastInitial = 1200

// dialect is what the versions of QUIC differ in, for Initial packets.
type dialect struct {
	initial           byte // the type bits of the first byte
	salt              []byte
	key, vector, mask string // labels
}

// Versions 1 (RFC 9001 section 5.2) and 2 (RFC 9369 section 3.3).
var dialects = map[uint32]*dialect{
	0x00000001: {
		0x00,
		[]byte("\x38\x76\x2c\xf7\xf5\x59\x34\xb3\x4d\x17\x9a\xe6\xa4\xc8\x0c\xad\xcc\xbb\x7f\x0a"),
		"quic key", "quic iv", "quic hp",
	},
	0x6b3343cf: {
		0x10,
		[]byte("\x0d\xed\xe3\xde\xf7\x00\xa6\xdb\x81\x93\x81\xbe\x6e\x26\x9d\xcb\xf9\xbd\x2e\xd9"),
		"quicv2 key", "quicv2 iv", "quicv2 hp",
	},
}

var (
	errNoInitial = errors.New("no Initial packet of QUIC")
	errSeal      = errors.New("an Initial packet that does not open")
)

// initial is a client's Initial packet with its header's fields found.
type initial struct {
	*dialect
	datagram []byte
	to       []byte // destination connection ID
	number   int    // where the packet's number begins
	end      int    // of the packet; others may follow in the datagram
}

// looksInitial is cheap, and true of each datagram that begins with an Initial.
func looksInitial(d []byte) bool {
	if len(d) < leastInitial || d[0]&0xc0 != 0xc0 {
		return false
	}
	v := dialects[binary.BigEndian.Uint32(d[1:])]
	return v != nil && d[0]&0x30 == v.initial
}

// parseInitial reads the header (RFC 9000 section 17.2.2).
func parseInitial(d []byte) (p initial, err error) {
	if !looksInitial(d) {
		return p, errNoInitial
	}
	p.dialect, p.datagram = dialects[binary.BigEndian.Uint32(d[1:])], d
	s := cryptobyte.String(d[5:])
	var to, from cryptobyte.String
	if !s.ReadUint8LengthPrefixed(&to) || !s.ReadUint8LengthPrefixed(&from) || len(to) > 20 || len(from) > 20 {
		return p, errNoInitial
	}
	p.to = to
	token, ok := readVarint(&s)
	if !ok || uint64(len(s)) < token || !s.Skip(int(token)) {
		return p, errNoInitial
	}
	length, ok := readVarint(&s)
	if !ok || length > uint64(len(s)) || length < 4+16 {
		return p, errNoInitial
	}
	p.number = len(d) - len(s)
	p.end = p.number + int(length)
	return p, nil
}

// readVarint reads an integer of RFC 9000 section 16.
func readVarint(s *cryptobyte.String) (uint64, bool) {
	var first uint8
	if !s.ReadUint8(&first) {
		return 0, false
	}
	v := uint64(first & 0x3f)
	for range 1<<(first>>6) - 1 {
		var b uint8
		if !s.ReadUint8(&b) {
			return 0, false
		}
		v = v<<8 | uint64(b)
	}
	return v, true
}

// open gives the frames of the packet. The datagram stays as it is.
func (p *initial) open() ([]byte, error) {
	seal, vector, mask, err := p.keys()
	if err != nil {
		return nil, err
	}
	var sample [16]byte
	mask.Encrypt(sample[:], p.datagram[p.number+4:p.number+20])
	first := p.datagram[0] ^ sample[0]&0x0f
	size := int(first&3) + 1
	header := make([]byte, p.number+size)
	copy(header, p.datagram)
	header[0] = first
	for i := range size {
		header[p.number+i] ^= sample[1+i]
		vector[len(vector)-size+i] ^= header[p.number+i]
	}
	frames, err := seal.Open(nil, vector, p.datagram[p.number+size:p.end], header)
	if err != nil {
		return nil, errSeal
	}
	return frames, nil
}

// keys are the client's (RFC 9001 sections 5.1 and 5.2).
func (p *initial) keys() (seal cipher.AEAD, vector []byte, mask cipher.Block, err error) {
	of := hmac.New(sha256.New, p.salt)
	of.Write(p.to)
	of = hmac.New(sha256.New, of.Sum(nil))
	client := hmac.New(sha256.New, expand(of, "client in", sha256.Size))
	vector = expand(client, p.vector, 12)
	block, err := aes.NewCipher(expand(client, p.key, 16))
	if err != nil {
		return nil, nil, nil, err
	}
	if seal, err = cipher.NewGCM(block); err != nil {
		return nil, nil, nil, err
	}
	mask, err = aes.NewCipher(expand(client, p.mask, 16))
	return seal, vector, mask, err
}

// expand is HKDF-Expand-Label of RFC 8446 section 7.1, without a context, for no
// more than one hash: one HMAC under the secret, which serves all labels and is
// most of what an Initial costs.
func expand(secret hash.Hash, label string, size int) []byte {
	secret.Reset()
	secret.Write([]byte{0, byte(size), byte(len("tls13 ") + len(label))})
	secret.Write([]byte("tls13 "))
	secret.Write([]byte(label))
	secret.Write([]byte{0, 1})
	return secret.Sum(nil)[:size]
}
