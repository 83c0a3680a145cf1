package proto

import "encoding/binary"

// The first byte of what the control flow carries.
const (
	FrameControl = 0 // a Frame in protobuf follows
	FramePart    = 1 // a Part
)

// PartSize is the size of a part's header, in bytes.
const PartSize = 1 + 2 + 4 + 1 + 1

// Part is a piece of a datagram that is larger than the path. Of flow 0 it is a
// piece of a frame, from its first byte on:
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
	if b[0] != FramePart || p.Count == 0 || p.Index >= p.Count || p.Flow > flowMask {
		return Part{}, ErrForm
	}
	return p, nil
}
