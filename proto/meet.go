package proto

import "encoding/binary"

// Sizes of what two agents without a coordinator meet by, in bytes: an ephemeral
// key, what is sealed (a byte of flags and a Greeting), a tag. Longer ones are of
// a later version.
const (
	greetingSize = 9
	meetSize     = 1 + 32 + 1 + greetingSize + TagSize
	maxMeetSize  = 512
)

// AppendMeet appends a handshake message to b: the first, or the answer to one.
//
//	+--------+-----------------------------------------------+
//	|10000111| first message of Noise NNpsk0                 |  meet
//	|10001000| second                                        |  met
//	+--------+-----------------------------------------------+
func AppendMeet(b []byte, answer bool, message []byte) []byte {
	kind := byte(byteMeet)
	if answer {
		kind = byteMet
	}
	return append(append(b, kind), message...)
}

// ParseMeet reads what AppendMeet wrote; the message is part of b.
func ParseMeet(b []byte) (answer bool, message []byte, err error) {
	switch {
	case len(b) < meetSize:
		return false, nil, ErrShort
	case len(b) > maxMeetSize, b[0] != byteMeet && b[0] != byteMet:
		return false, nil, ErrForm
	}
	return b[0] == byteMet, b[1:], nil
}

// Half is which half of the numbers of flows an agent hands out.
type Half uint8

// The halves.
const (
	EitherHalf Half = iota // as the peer leaves it
	LowerHalf
	UpperHalf
)

// Other is the half that is left to the peer.
func (h Half) Other() Half {
	switch h {
	case LowerHalf:
		return UpperHalf
	case UpperHalf:
		return LowerHalf
	}
	return EitherHalf
}

// Greeting is what both messages carry, sealed.
type Greeting struct {
	ID   uint64 // of this attempt to meet, random; of two agents the one of the lower ID is the initiator
	Half Half
}

// Append appends g to b.
func (g Greeting) Append(b []byte) []byte {
	return append(binary.BigEndian.AppendUint64(b, g.ID), byte(g.Half))
}

// ParseGreeting reads what Append wrote; what follows is of a later version.
func ParseGreeting(b []byte) (Greeting, error) {
	if len(b) < greetingSize {
		return Greeting{}, ErrShort
	}
	g := Greeting{binary.BigEndian.Uint64(b), Half(b[8])}
	if g.Half > UpperHalf {
		return Greeting{}, ErrForm
	}
	return g, nil
}
