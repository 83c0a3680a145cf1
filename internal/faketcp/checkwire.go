package faketcp

import (
	"encoding/binary"
	"math/rand/v2"
)

// A check's datagram, in bytes:
//
//	 0        1        2        4              8              16
//	+--------+--------+--------+--------------+--------------+
//	|   86   |  kind  | length |   magic      |    nonce     |
//	+--------+--------+--------+--------------+--------------+
//	 16       17       18       20      24      28      30      32
//	+--------+--------+--------+-------+-------+-------+-------+
//	| number | flags  | length |  seq  |  ack  | window|  MSS  |   as this segment left;
//	+--------+--------+--------+-------+-------+-------+-------+   length: of the question, as it came
//	 32      36      40       42       43       44      46      48      52      56
//	+-------+-------+--------+--------+--------+-------+-------+-------+-------+
//	|  seq  |  ack  | window |  saw   |   0    |  MSS  |   0   |  ISN  |  ISN  |   as the question came
//	+-------+-------+--------+--------+--------+-------+-------+-------+-------+
//
// The first ISN is the peer's as its SYN came (0: not known), the second the
// sender's own. A question is padded with zeros to the length it says; one in
// packed form, and its answer, ends with 8 random bytes.
const (
	checkByte  = 0x86
	checkSize  = 56
	checkMagic = "rdvc"
	// leastPacked is how long a question that asks for packed mode has to be:
	// its first 12 bytes travel in the header, and its last 8 are random, so
	// that each one's header is another (see maskOf). So is the answer.
	leastPacked = checkSize + 8
)

// Kinds of check datagrams.
const (
	kindAsk    = 1
	kindAnswer = 2
)

// Flags of check datagrams.
const (
	flagPacked = 1 // it left in packed form, and asks for an answer in that form
	flagKnows  = 2 // the sender knows the SYN of the other
	flagPlain  = 4 // the sender's port is shared with the kernel's TCP: nothing packed
)

// message is a check's datagram.
type message struct {
	kind, number, flags uint8
	length, came        uint16 // said by the sender of this one; of the question, as it came
	nonce               uint64

	sent   fields // this segment's, as it left
	ownISN uint32
	ownMSS uint16

	saw     fields // the question's, as it came
	look    uint8  // what the other's SYN looked like (sawOptions, sawWindow)
	itsISN  uint32
	itsMSS  uint16
	asCame  int    // received: the length of the datagram that it was in
	arrived fields // received: this segment's, as it came
}

// fields are those of a header that a box may rewrite.
type fields struct {
	seq, ack uint32
	window   uint16
}

func isCheck(d []byte) bool {
	return len(d) >= checkSize && d[0] == checkByte && (d[1] == kindAsk || d[1] == kindAnswer) && string(d[4:8]) == checkMagic
}

// put writes m into b, which has m.length bytes, at least checkSize.
func (m *message) put(b []byte) {
	be := binary.BigEndian
	clear(b)
	b[0], b[1] = checkByte, m.kind
	be.PutUint16(b[2:], m.length)
	copy(b[4:8], checkMagic)
	be.PutUint64(b[8:], m.nonce)
	b[16], b[17] = m.number, m.flags
	be.PutUint16(b[18:], m.came)
	be.PutUint32(b[20:], m.sent.seq)
	be.PutUint32(b[24:], m.sent.ack)
	be.PutUint16(b[28:], m.sent.window)
	be.PutUint16(b[30:], m.ownMSS)
	be.PutUint32(b[32:], m.saw.seq)
	be.PutUint32(b[36:], m.saw.ack)
	be.PutUint16(b[40:], m.saw.window)
	b[42] = m.look
	be.PutUint16(b[44:], m.itsMSS)
	be.PutUint32(b[48:], m.itsISN)
	be.PutUint32(b[52:], m.ownISN)
	if m.flags&flagPacked != 0 && len(b) >= leastPacked {
		be.PutUint64(b[len(b)-8:], rand.Uint64())
	}
}

// parse reads what put wrote; isCheck said that d is one.
func (m *message) parse(d []byte) {
	be := binary.BigEndian
	*m = message{
		kind: d[1], length: be.Uint16(d[2:]), nonce: be.Uint64(d[8:]), number: d[16], flags: d[17], came: be.Uint16(d[18:]),
		sent:   fields{be.Uint32(d[20:]), be.Uint32(d[24:]), be.Uint16(d[28:])},
		ownMSS: be.Uint16(d[30:]),
		saw:    fields{be.Uint32(d[32:]), be.Uint32(d[36:]), be.Uint16(d[40:])},
		look:   d[42], itsMSS: be.Uint16(d[44:]), itsISN: be.Uint32(d[48:]), ownISN: be.Uint32(d[52:]),
		asCame: len(d),
	}
}

// recut says whether the datagram did not come as it was cut.
func (m *message) recut() bool { return m.asCame != int(m.length) }
