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
	KindMeet
	KindMet
)

// The first byte of each kind of ours but data, which needs its bits for the
// epoch and the flow.
const (
	byteProbe       = 0x81
	byteProbeAnswer = 0x82
	byteBind        = 0x83
	byteBound       = 0x84
	bytePrime       = 0x85
	byteMeet        = 0x87 // 0x86 is of fake TCP
	byteMet         = 0x88
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
	case byteMeet:
		return KindMeet
	case byteMet:
		return KindMet
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
	// MaxFlow is the highest number of a client's flow.
	MaxFlow = 1<<FlowBits - 3
	// ControlFlow carries frames and parts.
	ControlFlow = 0
	// QUICFlow carries the packets of a QUIC connection between the two agents,
	// StreamFlow the pieces of a byte stream. Both carry TCP services.
	QUICFlow   = 1<<FlowBits - 1
	StreamFlow = 1<<FlowBits - 2

	flowMask = 1<<FlowBits - 1
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
		uint32(flow&flowMask)<<CounterBits|uint32(counter)&(1<<CounterBits-1))
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
		Flow:    uint16(v>>CounterBits) & flowMask,
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

// addrSize is the size of an address with its port, in bytes.
const addrSize = 16 + 2

// appendAddr writes 16 bytes of address (IPv4 mapped into IPv6) and 2 of port,
// all zero where there is none.
func appendAddr(b []byte, a netip.AddrPort) []byte {
	var raw [16]byte
	port := a.Port()
	if a.IsValid() {
		raw = a.Addr().As16()
	}
	if raw == [16]byte{} {
		port = 0
	}
	return binary.BigEndian.AppendUint16(append(b, raw[:]...), port)
}

// parseAddr reads what appendAddr wrote: each address has one form.
func parseAddr(b []byte) (netip.AddrPort, bool) {
	ip, port := netip.AddrFrom16([16]byte(b[:16])), binary.BigEndian.Uint16(b[16:])
	if ip == netip.IPv6Unspecified() {
		return netip.AddrPort{}, port == 0
	}
	return netip.AddrPortFrom(ip.Unmap(), port), true
}

// Prime is the low-TTL datagram that opens the own NAT and must not arrive.
func Prime() []byte { return []byte{bytePrime} }
