package tun

import (
	"encoding/binary"
	"net/netip"

	"rendezvous/internal/checksum"
)

// Sizes of headers in bytes and numbers of protocols (RFC 791 section 3.1, RFC
// 8200 sections 3 and 4, RFC 9293 section 3.1).
const (
	ip4Size = 20
	ip6Size = 40

	protocolICMP     = 1
	protocolTCP      = 6
	protocolICMPv6   = 58
	headerHopByHop   = 0
	headerRouting    = 43
	headerFragment   = 44
	headerAH         = 51
	headerNone       = 59
	headerDstOptions = 60

	hops = 64 // TTL and hop limit of what we make
)

// packet is an IP packet, taken apart.
type packet struct {
	from, to netip.Addr
	segment  []byte // TCP's header and payload
	frozen   bool   // may not be fragmented
}

// ipSize is how long the IP header is that a segment from from gets.
func ipSize(from netip.Addr) int {
	if from.Is4() {
		return ip4Size
	}
	return ip6Size
}

// parse takes a packet of the device apart; the segment in it is not looked at.
func parse(b []byte) (packet, Reason) {
	switch {
	case len(b) == 0:
		return packet{}, BadLength
	case b[0]>>4 == 4:
		return parse4(b)
	case b[0]>>4 == 6:
		return parse6(b)
	}
	return packet{}, NotTCP
}

func parse4(b []byte) (packet, Reason) {
	const moreFragments, offset, dontFragment = 0x2000, 0x1fff, 0x4000
	if len(b) < ip4Size || int(binary.BigEndian.Uint16(b[2:])) != len(b) || b[0]&15 < ip4Size/4 {
		return packet{}, BadLength
	}
	flags := binary.BigEndian.Uint16(b[6:])
	switch {
	case b[9] != protocolTCP:
		return packet{}, NotTCP
	case b[0]&15 > ip4Size/4:
		return packet{}, Options
	case flags&(moreFragments|offset) != 0:
		return packet{}, Fragment
	}
	return packet{
		from: netip.AddrFrom4([4]byte(b[12:])), to: netip.AddrFrom4([4]byte(b[16:])),
		segment: b[ip4Size:], frozen: flags&dontFragment != 0,
	}, Carried
}

func parse6(b []byte) (packet, Reason) {
	if len(b) < ip6Size || int(binary.BigEndian.Uint16(b[4:])) != len(b)-ip6Size {
		return packet{}, BadLength
	}
	switch b[6] {
	case protocolTCP:
	case headerFragment:
		return packet{}, Fragment
	case headerHopByHop, headerRouting, headerAH, headerDstOptions:
		return packet{}, Options
	default:
		return packet{}, NotTCP
	}
	return packet{
		from: netip.AddrFrom16([16]byte(b[8:])), to: netip.AddrFrom16([16]byte(b[24:])),
		segment: b[ip6Size:], frozen: true,
	}, Carried
}

// putIP writes the IP header of length bytes of a protocol behind it, into the
// beginning of b. An IPv4 packet may not be fragmented, so it needs no
// identification (RFC 6864 section 4.1).
func putIP(b []byte, from, to netip.Addr, protocol uint8, length int) {
	if from.Is4() {
		src, dst := from.As4(), to.As4()
		h := b[:ip4Size]
		copy(h, []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, hops, protocol, 0, 0})
		binary.BigEndian.PutUint16(h[2:], uint16(ip4Size+length))
		copy(h[12:], src[:])
		copy(h[16:], dst[:])
		binary.BigEndian.PutUint16(h[10:], ^checksum.Fold(checksum.Sum(0, h)))
		return
	}
	src, dst := from.As16(), to.As16()
	h := b[:ip6Size]
	copy(h, []byte{0x60, 0, 0, 0, 0, 0, protocol, hops})
	binary.BigEndian.PutUint16(h[4:], uint16(length))
	copy(h[8:], src[:])
	copy(h[24:], dst[:])
}
