package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// The kinds of piece that a stream consists of, behind its greeting (section
// "TCP services" of proto/SPEC.md).
const (
	pieceData  = 1 // bytes of the connection
	pieceAck   = 2 // what has come, and how far the other side may go on
	pieceFIN   = 3 // no more bytes will come
	pieceReset = 4 // the connection has broken; its text says why
	pieceEnd   = 5 // the sender has all and knows that the other side has all: the last piece
)

const (
	headerSize = 4       // of a piece: its kind, then its length in three bytes
	mostData   = 1 << 16 // bytes in one piece of data
	ackSize    = 16
	mostReason = 200 // bytes of a reset's or a refusal's text
)

var errPiece = errors.New("the peer sent a piece that there is not")

// putHeader writes the header of a piece of n bytes into b.
func putHeader(b []byte, kind byte, n int) {
	binary.BigEndian.PutUint32(b, uint32(kind)<<24|uint32(n))
}

func appendHeader(b []byte, kind byte, n int) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(kind)<<24|uint32(n))
}

func appendAck(b []byte, received, limit uint64) []byte {
	b = appendHeader(b, pieceAck, ackSize)
	b = binary.BigEndian.AppendUint64(b, received)
	return binary.BigEndian.AppendUint64(b, limit)
}

func appendReset(b []byte, reason string) []byte {
	reason = brief(reason)
	return append(appendHeader(b, pieceReset, len(reason)), reason...)
}

// brief cuts a text for the wire.
func brief(text string) string {
	if len(text) > mostReason {
		text = text[:mostReason]
	}
	return strings.ToValidUTF8(text, "")
}

// piece is what a decoder found. Of data it is as much as has come.
type piece struct {
	kind     byte
	data     []byte // data: it lies in what was decoded, where all up to the end of data may be overwritten
	received uint64 // acknowledgement
	limit    uint64 // acknowledgement
	reason   string // reset
}

// decoder reads pieces from a stream of bytes that comes in parts of any size.
type decoder struct {
	left int // bytes of a piece of data that are still to come
	n    int // bytes in held
	held [headerSize + mostReason]byte
}

// next reads the piece that b begins with and returns what is behind it. ok is
// false when b is used up. Data needs not be whole: what is there is returned.
func (d *decoder) next(b []byte) (p piece, rest []byte, ok bool, err error) {
	if d.left == 0 {
		b = d.gather(b, headerSize)
		if d.n < headerSize {
			return piece{}, nil, false, nil
		}
		kind, size := d.held[0], int(binary.BigEndian.Uint32(d.held[:])&0xffffff)
		if err := check(kind, size); err != nil {
			return piece{}, nil, false, err
		}
		if kind != pieceData {
			return d.small(b, kind, size)
		}
		d.n, d.left = 0, size
	}
	if len(b) == 0 {
		return piece{}, nil, false, nil
	}
	n := min(d.left, len(b))
	d.left -= n
	return piece{kind: pieceData, data: b[:n]}, b[n:], true, nil
}

// small reads what is behind the header of a piece other than data.
func (d *decoder) small(b []byte, kind byte, size int) (p piece, rest []byte, ok bool, err error) {
	b = d.gather(b, headerSize+size)
	if d.n < headerSize+size {
		return piece{}, nil, false, nil
	}
	body := d.held[headerSize:d.n]
	d.n = 0
	p.kind = kind
	switch kind {
	case pieceAck:
		p.received = binary.BigEndian.Uint64(body)
		p.limit = binary.BigEndian.Uint64(body[8:])
	case pieceReset:
		p.reason = strings.ToValidUTF8(string(body), "")
	}
	return p, b, true, nil
}

// gather keeps bytes of b until there are n.
func (d *decoder) gather(b []byte, n int) (rest []byte) {
	if d.n >= n {
		return b
	}
	m := copy(d.held[d.n:n], b)
	d.n += m
	return b[m:]
}

func check(kind byte, size int) error {
	ok := false
	switch kind {
	case pieceData:
		ok = size > 0 && size <= mostData
	case pieceAck:
		ok = size == ackSize
	case pieceFIN, pieceEnd:
		ok = size == 0
	case pieceReset:
		ok = size <= mostReason
	}
	if !ok {
		return fmt.Errorf("%w: kind %d with %d bytes", errPiece, kind, size)
	}
	return nil
}
