//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"time"
)

// kind is what a datagram of the load asks for or tells.
type kind uint8

const (
	kindData   kind = 1 + iota // counted by the sink
	kindAsk                    // asks what was counted in this run
	kindCounts                 // the answer
	kindEcho                   // asks for itself back
	kindEchoed                 // the answer, with the sink's clock
)

const (
	magic      = 0x72647632
	headerSize = 32
	countsSize = headerSize + 8*8
	maxSize    = 65507 // an IPv4 datagram's limit
)

var errForeign = errors.New("not a datagram of the load")

// header begins every datagram:
//
//	magic (4) | kind (1) | flags (1) | run (2) | number (8) | sent (8) | seen (8)
//
// Times are CLOCK_MONOTONIC, which all namespaces of a machine share.
type header struct {
	kind    kind
	checked bool // flag 1: what follows is filler of this number
	run     uint16
	number  uint64
	sent    time.Duration
	seen    time.Duration // of an echoed one: when the sink had it
}

func (h header) put(b []byte) {
	binary.BigEndian.PutUint32(b, magic)
	b[4], b[5] = byte(h.kind), 0
	if h.checked {
		b[5] = 1
	}
	binary.BigEndian.PutUint16(b[6:], h.run)
	binary.BigEndian.PutUint64(b[8:], h.number)
	binary.BigEndian.PutUint64(b[16:], uint64(h.sent))
	binary.BigEndian.PutUint64(b[24:], uint64(h.seen))
}

func parseHeader(b []byte) (header, error) {
	if len(b) < headerSize || binary.BigEndian.Uint32(b) != magic {
		return header{}, errForeign
	}
	return header{
		kind:    kind(b[4]),
		checked: b[5]&1 != 0,
		run:     binary.BigEndian.Uint16(b[6:]),
		number:  binary.BigEndian.Uint64(b[8:]),
		sent:    time.Duration(binary.BigEndian.Uint64(b[16:])),
		seen:    time.Duration(binary.BigEndian.Uint64(b[24:])),
	}, nil
}

// counts is what the sink has of one run.
type counts struct {
	received   uint64 // different numbers
	bytes      uint64 // of those
	duplicates uint64
	reordered  uint64 // came after a higher number
	wrong      uint64 // of another content than was sent
	sources    uint64 // different addresses that asked for echoes
	p50, p99   uint64 // delay of those received, us, to an eighth
}

func (c counts) put(b []byte) {
	for i, v := range []uint64{c.received, c.bytes, c.duplicates, c.reordered, c.wrong, c.sources, c.p50, c.p99} {
		binary.BigEndian.PutUint64(b[headerSize+8*i:], v)
	}
}

func parseCounts(b []byte) (counts, error) {
	if len(b) < countsSize {
		return counts{}, errForeign
	}
	field := func(i int) uint64 { return binary.BigEndian.Uint64(b[headerSize+8*i:]) }
	return counts{field(0), field(1), field(2), field(3), field(4), field(5), field(6), field(7)}, nil
}

// fill writes the content that goes with a number, and filled checks it.
func fill(b []byte, number uint64) {
	x := number*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x = next(x)
		b[i] = byte(x)
	}
}

func filled(b []byte, number uint64) bool {
	x := number*0x9e3779b97f4a7c15 + 1
	for i := range b {
		x = next(x)
		if b[i] != byte(x) {
			return false
		}
	}
	return true
}

// next is a step of xorshift64 (Marsaglia 2003).
func next(x uint64) uint64 {
	x ^= x << 13
	x ^= x >> 7
	return x ^ x<<17
}
