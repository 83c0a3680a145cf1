package proto

import (
	"encoding/binary"
	"net/netip"
)

// TokenSize is the size of the token by which the receiver of a probe knows
// the session that it belongs to.
const TokenSize = 8

// Token is chosen at random for each session and side.
type Token [TokenSize]byte

// Sizes of a probe without padding, in bytes.
const (
	ProbeHeaderSize = 1 + TokenSize + 8
	ProbeBodySize   = 46
	ProbeSize       = ProbeHeaderSize + ProbeBodySize + TagSize
)

// ProbeHeader stands before every probe and is authenticated with it:
//
//	+--------+------------------------+------------------------+
//	|10000001| token (8 bytes)        | counter (8 bytes)      |  probe
//	|10000010|                        |                        |  answer
//	+--------+------------------------+------------------------+
//	| sealed body (46 bytes, then padding), 16 bytes of tag    |
type ProbeHeader struct {
	Answer  bool
	Token   Token
	Counter uint64
}

// AppendProbeHeader appends h to b.
func AppendProbeHeader(b []byte, h ProbeHeader) []byte {
	kind := byte(byteProbe)
	if h.Answer {
		kind = byteProbeAnswer
	}
	b = append(append(b, kind), h.Token[:]...)
	return binary.BigEndian.AppendUint64(b, h.Counter)
}

// ParseProbeHeader reads what AppendProbeHeader wrote.
func ParseProbeHeader(b []byte) (ProbeHeader, error) {
	if len(b) < ProbeSize {
		return ProbeHeader{}, ErrShort
	}
	if b[0] != byteProbe && b[0] != byteProbeAnswer {
		return ProbeHeader{}, ErrForm
	}
	return ProbeHeader{
		Answer:  b[0] == byteProbeAnswer,
		Token:   Token(b[1 : 1+TokenSize]),
		Counter: binary.BigEndian.Uint64(b[1+TokenSize:]),
	}, nil
}

// ProbeBody is what a probe and its answer carry, so that an answer is never
// larger than what it answers:
//
//	+-------+-------+---------------+-------------------------------+
//	| flags | epoch | size (2)      | next counter of data (8)      |
//	+-------+-------+---------------+-------------------------------+
//	| datagrams opened so far (8)   | counter of the probe answered |
//	+-------------------------------+-------------------------------+
//	| address that the probe came from (16), port (2)               |
type ProbeBody struct {
	Best     bool           // flags 0x01: the sender sends its data on this path
	Epoch    uint8          // of the sender's newest key
	Size     uint16         // bytes of the whole datagram: of the probe, and in an answer of the probe that came
	Next     uint64         // the sender's next data counter, to find the window again after a blackout
	Received uint64         // data datagrams that the sender has opened and that came on this path, for measuring loss
	Echo     uint64         // answer: the counter of the probe
	Observed netip.AddrPort // answer: where the probe came from
}

const flagBest = 0x01

// AppendProbeBody appends the plaintext body to b.
func AppendProbeBody(b []byte, p ProbeBody) []byte {
	var flags byte
	if p.Best {
		flags |= flagBest
	}
	b = append(b, flags, p.Epoch)
	b = binary.BigEndian.AppendUint16(b, p.Size)
	b = binary.BigEndian.AppendUint64(b, p.Next)
	b = binary.BigEndian.AppendUint64(b, p.Received)
	b = binary.BigEndian.AppendUint64(b, p.Echo)
	return appendAddr(b, p.Observed)
}

// ParseProbeBody reads what AppendProbeBody wrote and ignores padding, and the
// flags that a later version may add.
func ParseProbeBody(b []byte) (ProbeBody, error) {
	if len(b) < ProbeBodySize {
		return ProbeBody{}, ErrShort
	}
	observed, ok := parseAddr(b[28:])
	if !ok {
		return ProbeBody{}, ErrForm
	}
	return ProbeBody{
		Best:     b[0]&flagBest != 0,
		Epoch:    b[1],
		Size:     binary.BigEndian.Uint16(b[2:]),
		Next:     binary.BigEndian.Uint64(b[4:]),
		Received: binary.BigEndian.Uint64(b[12:]),
		Echo:     binary.BigEndian.Uint64(b[20:]),
		Observed: observed,
	}, nil
}
