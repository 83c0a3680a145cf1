package proto

import (
	"encoding/binary"
	"net/netip"
)

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

const (
	flagBoth = 0x01
	flagGone = 0x02
)

// AppendBindBody appends all of b but its MAC to dst: what the MAC covers.
func AppendBindBody(dst []byte, b Bind) []byte {
	kind, flags := byte(byteBind), byte(0)
	if b.Bound {
		kind = byteBound
	}
	if b.Both {
		flags |= flagBoth
	}
	if b.Gone {
		flags |= flagGone
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

// ParseBind reads what AppendBind wrote, and nothing else: a bind has one form,
// so that its MAC covers each bit.
func ParseBind(b []byte) (Bind, error) {
	if len(b) < BindSize {
		return Bind{}, ErrShort
	}
	if len(b) > BindSize || b[0] != byteBind && b[0] != byteBound {
		return Bind{}, ErrForm
	}
	leg, flags := b[9], b[18]
	observed, ok := parseAddr(b[19:])
	if !ok || leg >= Legs || flags&^(flagBoth|flagGone) != 0 {
		return Bind{}, ErrForm
	}
	return Bind{
		Bound:      b[0] == byteBound,
		Allocation: Token(b[1:9]),
		Leg:        leg,
		Counter:    binary.BigEndian.Uint64(b[10:]),
		Both:       flags&flagBoth != 0,
		Gone:       flags&flagGone != 0,
		Observed:   observed,
		MAC:        [bindMACSize]byte(b[37:]),
	}, nil
}
