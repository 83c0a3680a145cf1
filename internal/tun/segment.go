package tun

import (
	"encoding/binary"
	"net/netip"

	"rendezvous/internal/checksum"
)

// Where fields stand in TCP's header, and its flags (RFC 9293 section 3.1).
const (
	minSegment = 20 // bytes of a header without options
	maxHeader  = 60 // and with all that fit

	atSeq      = 4
	atAck      = 8
	atOffset   = 12
	atFlags    = 13
	atWindow   = 14
	atChecksum = 16
	atUrgent   = 18

	flagFIN = 0x01
	flagPSH = 0x08
	flagACK = 0x10
	flagECE = 0x40
	flagCWR = 0x80
)

// headerSize is how long the TCP header of a segment is, in bytes; 0 where this
// is no segment.
func headerSize(segment []byte) int {
	if len(segment) < minSegment {
		return 0
	}
	size := int(segment[atOffset]>>4) * 4
	if size < minSegment || size > len(segment) {
		return 0
	}
	return size
}

// complete computes a segment's checksum.
func complete(segment []byte, from, to netip.Addr) {
	binary.BigEndian.PutUint16(segment[atChecksum:], 0)
	total := checksum.Pseudo(from, to, protocolTCP, len(segment))
	binary.BigEndian.PutUint16(segment[atChecksum:], ^checksum.Fold(checksum.Sum(total, segment)))
}

// begin leaves in a segment's checksum what belongs to the pseudo header; the
// kernel, or the device that it leaves by, completes it. length is that of
// the whole, also of a super-segment.
func begin(segment []byte, from, to netip.Addr, length int) {
	binary.BigEndian.PutUint16(segment[atChecksum:], checksum.Fold(checksum.Pseudo(from, to, protocolTCP, length)))
}
