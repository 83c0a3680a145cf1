package share

import (
	"bytes"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
)

// Bounds of ClientHellos that come in several datagrams, as those with
// post-quantum keys do.
const (
	gatherMost   = 256             // clients
	gatherEach   = 6               // datagrams of a client
	gatherPieces = 64              // of a ClientHello: some browsers cut it into a dozen, and mix them
	gatherFor    = 3 * time.Second // some retransmissions
)

// gathering is a ClientHello while it arrives.
type gathering struct {
	hello  []byte  // its bytes, with holes
	pieces []piece // what is there, by offset
	held   [][]byte
	since  time.Time
}

// piece is a part that has arrived.
type piece struct{ from, to int }

// add takes the frames of one Initial packet and gives the ClientHello once all
// of it is there; nil before. Its error says that none can come of this.
func (g *gathering) add(frames []byte) ([]byte, error) {
	if !g.take(frames) {
		return nil, errNoHello
	}
	have := 0
	for _, p := range g.pieces {
		if p.from > have {
			break
		}
		have = max(have, p.to)
	}
	return wholeHello(g.hello[:have])
}

// take puts each frame in its place; false when they can't be of a client's
// first flight.
func (g *gathering) take(frames []byte) bool {
	s := cryptobyte.String(frames)
	for !s.Empty() {
		var kind uint8
		if !s.ReadUint8(&kind) {
			return false
		}
		switch kind {
		case 0: // PADDING (RFC 9000 section 19.1), most of the packet
			s = bytes.TrimLeft(s, "\x00")
		case 1: // PING (section 19.2)
		case 2, 3:
			if !skipAck(&s, kind == 3) {
				return false
			}
		case 6:
			at, ok := readVarint(&s)
			n, ok2 := readVarint(&s)
			var data []byte
			if !ok || !ok2 || at > mostHello || n > mostHello || !s.ReadBytes(&data, int(n)) || !g.put(int(at), data) {
				return false
			}
		default: // a CONNECTION_CLOSE, say
			return false
		}
	}
	return true
}

// skipAck reads an ACK frame (RFC 9000 section 19.3).
func skipAck(s *cryptobyte.String, ecn bool) bool {
	var n uint64
	for i := range 4 { // largest, delay, count, first range
		v, ok := readVarint(s)
		if !ok {
			return false
		}
		if i == 2 {
			n = v
		}
	}
	rest := 2 * n
	if ecn {
		rest += 3
	}
	for ; rest > 0; rest-- {
		if _, ok := readVarint(s); !ok {
			return false
		}
	}
	return true
}

func (g *gathering) put(at int, data []byte) bool {
	end := at + len(data)
	if end > mostHello || len(g.pieces) >= gatherPieces {
		return false
	}
	if end > len(g.hello) {
		g.hello = slices.Grow(g.hello, end-len(g.hello))[:end]
	}
	copy(g.hello[at:], data)
	i, _ := slices.BinarySearchFunc(g.pieces, at, func(p piece, at int) int { return p.from - at })
	g.pieces = slices.Insert(g.pieces, i, piece{at, end})
	return true
}
