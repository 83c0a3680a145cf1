// Package proto is the wire: the control messages (protobuf), the sealed
// datagram, the probe and the bind with their codecs, the framing of the
// control stream and the join link. It does no I/O. SPEC.md is normative.
package proto

import (
	"encoding/binary"
	"errors"
	"net/netip"
)

// Kind is what a datagram is, told by its first bytes.
type Kind uint8

// The kinds share one socket: QUIC has its fixed bit (0x40) set, STUN begins
// with two zero bits and carries a magic cookie, ours begin with 10.
const (
	KindUnknown Kind = iota
	KindSTUN
	KindQUIC
	KindData
	KindProbe
	KindProbeAnswer
	KindBind
	KindBound
	KindPrime
)

// The first byte of each kind of ours but data, which needs its bits for the
// epoch and the flow.
const (
	byteProbe       = 0x81
	byteProbeAnswer = 0x82
	byteBind        = 0x83
	byteBound       = 0x84
	bytePrime       = 0x85
	dataMark        = 0b101 // the three highest bits of a data header
)

const stunCookie = 0x2112A442 // RFC 8489 section 5

// ErrShort is the error of every decoder here that got too few bytes.
var ErrShort = errors.New("datagram is too short")

// ErrForm is the error of every decoder here that got bytes of another form.
var ErrForm = errors.New("datagram is not of this form")

// KindOf tells kinds apart on a socket that carries all of them. On the
// socket of a raw flow it says only what a datagram might be: there the token
// decides.
func KindOf(b []byte) Kind {
	switch {
	case len(b) == 0:
		return KindUnknown
	case b[0]&0x40 != 0:
		return KindQUIC
	case b[0]>>5 == dataMark:
		return KindData
	case b[0]&0xc0 == 0:
		if len(b) >= 20 && binary.BigEndian.Uint32(b[4:]) == stunCookie {
			return KindSTUN
		}
		return KindUnknown
	}
	switch b[0] {
	case byteProbe:
		return KindProbe
	case byteProbeAnswer:
		return KindProbeAnswer
	case byteBind:
		return KindBind
	case byteBound:
		return KindBound
	case bytePrime:
		return KindPrime
	}
	return KindUnknown
}

// Sizes of a sealed datagram, in bytes. WireGuard at its default MTU of 1420
// makes datagrams of 1452 bytes, and a 1500-byte IPv4 path carries 1472.
const (
	HeaderSize = 4
	TagSize    = 16
	Overhead   = HeaderSize + TagSize
)

// FlowBits and CounterBits are what the header has room for.
const (
	FlowBits    = 14
	CounterBits = 14
	// MaxFlow is the highest flow number; flow 0 is the session's own.
	MaxFlow = 1<<FlowBits - 1
	// ControlFlow carries frames and parts.
	ControlFlow = 0
)

// Header stands before every sealed datagram:
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|1 0 1|E|           flow            |    counter, low bits      |
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|                    ciphertext, then 16 bytes of tag           |
type Header struct {
	Epoch   uint8  // the lowest bit of the number of the key
	Flow    uint16 // 14 bits
	Counter uint16 // the lowest 14 bits of the counter
}

// PutHeader writes h into the first HeaderSize bytes of b.
func PutHeader(b []byte, epoch uint8, flow uint16, counter uint64) {
	binary.BigEndian.PutUint32(b, dataMark<<29|uint32(epoch&1)<<28|
		uint32(flow&MaxFlow)<<CounterBits|uint32(counter)&(1<<CounterBits-1))
}

// ParseHeader reads the header of a sealed datagram. A datagram that has no
// room for its tag gives ErrShort.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < Overhead {
		return Header{}, ErrShort
	}
	v := binary.BigEndian.Uint32(b)
	if v>>29 != dataMark {
		return Header{}, ErrForm
	}
	return Header{
		Epoch:   uint8(v>>28) & 1,
		Flow:    uint16(v>>CounterBits) & MaxFlow,
		Counter: uint16(v & (1<<CounterBits - 1)),
	}, nil
}

// MaxCounter bounds counters: none reaches it.
const MaxCounter = 1 << 62

// CompleteCounter gives the counter nearest to expected that ends in low, the
// higher of two equally near (the rule of RFC 9000 appendix A.3). expected is
// at most MaxCounter.
func CompleteCounter(expected uint64, low uint16) uint64 {
	const window = 1 << CounterBits
	c := expected&^(window-1) | uint64(low)&(window-1)
	switch {
	case c+window/2 <= expected && c < MaxCounter-window:
		return c + window
	case c > expected+window/2 && c >= window:
		return c - window
	}
	return c
}

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
	Received uint64         // data datagrams that the sender has opened, for measuring loss
	Echo     uint64         // answer: the counter of the probe
	Observed netip.AddrPort // answer: where the probe came from
}

// AppendProbeBody appends the plaintext body to b.
func AppendProbeBody(b []byte, p ProbeBody) []byte {
	var flags byte
	if p.Best {
		flags |= 1
	}
	b = append(b, flags, p.Epoch)
	b = binary.BigEndian.AppendUint16(b, p.Size)
	b = binary.BigEndian.AppendUint64(b, p.Next)
	b = binary.BigEndian.AppendUint64(b, p.Received)
	b = binary.BigEndian.AppendUint64(b, p.Echo)
	return appendAddr(b, p.Observed)
}

// ParseProbeBody reads what AppendProbeBody wrote and ignores padding.
func ParseProbeBody(b []byte) (ProbeBody, error) {
	if len(b) < ProbeBodySize {
		return ProbeBody{}, ErrShort
	}
	return ProbeBody{
		Best:     b[0]&1 != 0,
		Epoch:    b[1],
		Size:     binary.BigEndian.Uint16(b[2:]),
		Next:     binary.BigEndian.Uint64(b[4:]),
		Received: binary.BigEndian.Uint64(b[12:]),
		Echo:     binary.BigEndian.Uint64(b[20:]),
		Observed: parseAddr(b[28:]),
	}, nil
}

// addrSize is the size of an address with its port, in bytes.
const addrSize = 16 + 2

// appendAddr writes 16 bytes of address (IPv4 mapped into IPv6, unspecified
// where there is none) and 2 of port.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	ip := netip.IPv6Unspecified()
	if a.IsValid() {
		ip = a.Addr()
	}
	raw := ip.As16()
	return binary.BigEndian.AppendUint16(append(b, raw[:]...), a.Port())
}

func parseAddr(b []byte) netip.AddrPort {
	ip := netip.AddrFrom16([16]byte(b[:16]))
	if ip == netip.IPv6Unspecified() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(b[16:]))
}

// BindSize is the size of a bind and of its answer, in bytes.
const BindSize = 1 + TokenSize + 1 + 8 + 1 + addrSize + bindMACSize

// Legs is how many legs an allocation has.
const Legs = 2

const bindMACSize = 16

// Bind proves a leg's address to the relay; the relay's answer has the same
// form and size. Whoever holds the leg's key computes MAC over BindBody.
//
//	+--------+----------------------+-----+-------------+-------+------------------+----------+
//	|10000011| allocation (8 bytes) | leg | counter (8) | flags | address, port 18 | MAC (16) |  bind
//	|10000100|                      |     |             |       |                  |          |  bound
//	+--------+----------------------+-----+-------------+-------+------------------+----------+
type Bind struct {
	Bound      bool // this is the relay's answer
	Allocation Token
	Leg        uint8          // below Legs
	Counter    uint64         // rises with each bind of a leg; an answer repeats it
	Both       bool           // answer, flags 0x01: the other leg is bound too
	Gone       bool           // answer, flags 0x02: there is no such allocation any more
	Observed   netip.AddrPort // answer: where the bind came from
	MAC        [bindMACSize]byte
}

// AppendBindBody appends all of b but its MAC to dst: what the MAC covers.
func AppendBindBody(dst []byte, b Bind) []byte {
	kind, flags := byte(byteBind), byte(0)
	if b.Bound {
		kind = byteBound
	}
	if b.Both {
		flags |= 1
	}
	if b.Gone {
		flags |= 2
	}
	dst = append(append(dst, kind), b.Allocation[:]...)
	dst = append(dst, b.Leg)
	dst = binary.BigEndian.AppendUint64(dst, b.Counter)
	return appendAddr(append(dst, flags), b.Observed)
}

// AppendBind appends the whole of b to dst.
func AppendBind(dst []byte, b Bind) []byte {
	return append(AppendBindBody(dst, b), b.MAC[:]...)
}

// ParseBind reads what AppendBind wrote, and nothing longer.
func ParseBind(b []byte) (Bind, error) {
	if len(b) < BindSize {
		return Bind{}, ErrShort
	}
	if len(b) > BindSize || b[0] != byteBind && b[0] != byteBound || b[9] >= Legs {
		return Bind{}, ErrForm
	}
	return Bind{
		Bound:      b[0] == byteBound,
		Allocation: Token(b[1:9]),
		Leg:        b[9],
		Counter:    binary.BigEndian.Uint64(b[10:]),
		Both:       b[18]&1 != 0,
		Gone:       b[18]&2 != 0,
		Observed:   parseAddr(b[19:]),
		MAC:        [bindMACSize]byte(b[37:]),
	}, nil
}

// Prime is the low-TTL datagram that opens the own NAT and must not arrive.
func Prime() []byte { return []byte{bytePrime} }

// The first byte of what the control flow carries.
const (
	FrameControl = 0 // a Frame in protobuf follows
	FramePart    = 1 // a Part
)

// PartSize is the size of a part's header, in bytes.
const PartSize = 1 + 2 + 4 + 1 + 1

// Part is a piece of a datagram that is larger than the path:
//
//	+------+----------+--------+-------+-------+-------------+
//	|  1   | flow (2) | id (4) | index | count | payload ... |
//	+------+----------+--------+-------+-------+-------------+
type Part struct {
	Flow         uint16
	ID           uint32
	Index, Count uint8
	Payload      []byte
}

// AppendPart appends p to b.
func AppendPart(b []byte, p Part) []byte {
	b = append(b, FramePart)
	b = binary.BigEndian.AppendUint16(b, p.Flow)
	b = binary.BigEndian.AppendUint32(b, p.ID)
	return append(append(b, p.Index, p.Count), p.Payload...)
}

// ParsePart reads what AppendPart wrote; the payload aliases b.
func ParsePart(b []byte) (Part, error) {
	if len(b) < PartSize {
		return Part{}, ErrShort
	}
	p := Part{
		Flow:    binary.BigEndian.Uint16(b[1:]),
		ID:      binary.BigEndian.Uint32(b[3:]),
		Index:   b[7],
		Count:   b[8],
		Payload: b[PartSize:],
	}
	if b[0] != FramePart || p.Count == 0 || p.Index >= p.Count || p.Flow == ControlFlow || p.Flow > MaxFlow {
		return Part{}, ErrForm
	}
	return p, nil
}
