// Package checksum computes the Internet checksum of RFC 1071.
package checksum

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Sum adds b, of which all but the last piece must have an even length, to a
// sum of 16-bit words (RFC 1071 section 2: any width of addition will do, as
// long as what runs over comes back in below).
func Sum(total uint64, b []byte) uint64 {
	var carry uint64
	for len(b) >= 32 {
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b), carry)
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b[8:]), carry)
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b[16:]), carry)
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b[24:]), carry)
		b = b[32:]
	}
	for len(b) >= 8 {
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte // zeros behind an odd byte are what the RFC wants
		copy(last[:], b)
		total, carry = bits.Add64(total, binary.BigEndian.Uint64(last[:]), carry)
	}
	total, carry = bits.Add64(total, 0, carry)
	return total + carry
}

// Fold makes 16 bits of a sum; the checksum is their complement.
func Fold(total uint64) uint16 {
	total = total>>32 + total&0xffffffff
	total = total>>32 + total&0xffffffff
	total = total>>16 + total&0xffff
	total = total>>16 + total&0xffff
	return uint16(total>>16 + total&0xffff)
}

// Pseudo is the sum over the pseudo header of length bytes of a protocol (RFC
// 9293 section 3.1; RFC 8200 section 8.1). Both addresses are of one family.
func Pseudo(from, to netip.Addr, protocol uint8, length int) uint64 {
	total := uint64(protocol) + uint64(length)
	if from.Is4() {
		a, b := from.As4(), to.As4()
		return Sum(Sum(total, a[:]), b[:])
	}
	a, b := from.As16(), to.As16()
	return Sum(Sum(total, a[:]), b[:])
}
