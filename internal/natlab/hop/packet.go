//go:build linux

package hop

import (
	"encoding/binary"
	"net/netip"
)

// Header fields of IPv4 (RFC 791), IPv6 (RFC 8200), ICMP (RFC 792) and ICMPv6
// (RFC 4443).
const (
	ipv4Header, ipv6Header = 20, 40
	protoICMP, protoICMPv6 = 1, 58
	headerFragment         = 44
	typeTimeExceeded4      = 11
	typeTimeExceeded6      = 3
	quoted                 = 128 // bytes of the expired packet in the answer
)

func destination(p []byte) (netip.Addr, bool) {
	switch {
	case len(p) >= ipv4Header && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[16:20])), true
	case len(p) >= ipv6Header && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[24:40])), true
	}
	return netip.Addr{}, false
}

func isFragment(p []byte) bool {
	if p[0]>>4 == 4 {
		return binary.BigEndian.Uint16(p[6:])&0x3fff != 0
	}
	return p[6] == headerFragment
}

// decrementTTL takes the packet past that many routers and returns 0, or the
// number of the router where its TTL ran out, counted from 1.
func decrementTTL(p []byte, routers int) int {
	if routers == 0 {
		return 0
	}
	at := 8
	if p[0]>>4 == 6 {
		at = 7
	}
	ttl := int(p[at])
	if ttl <= routers {
		return max(ttl, 1)
	}
	p[at] = byte(ttl - routers)
	if at == 8 {
		setHeaderChecksum(p)
	}
	return 0
}

func setHeaderChecksum(p []byte) {
	p[10], p[11] = 0, 0
	size := min(int(p[0]&15)*4, len(p))
	binary.BigEndian.PutUint16(p[10:], ^sum(p[:size], 0))
}

// timeExceeded appends the answer of a router to an expired packet, nil where
// none is allowed: about an ICMP error (RFC 1122 section 3.2.2) or a later
// fragment.
func timeExceeded(dst, expired []byte, router int) []byte {
	if expired[0]>>4 == 6 {
		return timeExceeded6(dst, expired, router)
	}
	head := int(expired[0]&15) * 4
	if binary.BigEndian.Uint16(expired[6:])&0x1fff != 0 {
		return nil
	}
	if expired[9] == protoICMP && len(expired) > head && expired[head] != 0 && expired[head] != 8 {
		return nil
	}
	quote := expired[:min(len(expired), quoted)]
	dst = append(dst, make([]byte, ipv4Header+8)...)
	dst = append(dst, quote...)
	dst[0], dst[8], dst[9] = 0x45, 64, protoICMP
	binary.BigEndian.PutUint16(dst[2:], uint16(len(dst)))
	from := RouterAddr(router, false).As4()
	copy(dst[12:], from[:])
	copy(dst[16:20], expired[12:16])
	setHeaderChecksum(dst)
	message := dst[ipv4Header:]
	message[0] = typeTimeExceeded4
	binary.BigEndian.PutUint16(message[2:], ^sum(message, 0))
	return dst
}

func timeExceeded6(dst, expired []byte, router int) []byte {
	if expired[6] == protoICMPv6 && len(expired) > ipv6Header && expired[ipv6Header] < 128 {
		return nil
	}
	quote := expired[:min(len(expired), quoted)]
	dst = append(dst, make([]byte, ipv6Header+8)...)
	dst = append(dst, quote...)
	message := dst[ipv6Header:]
	dst[0], dst[6], dst[7] = 0x60, protoICMPv6, 64
	binary.BigEndian.PutUint16(dst[4:], uint16(len(message)))
	from := RouterAddr(router, true).As16()
	copy(dst[8:], from[:])
	copy(dst[24:40], expired[8:24])
	message[0] = typeTimeExceeded6
	pseudo := sum(dst[8:40], uint32(len(message))+protoICMPv6)
	binary.BigEndian.PutUint16(message[2:], ^sum(message, uint32(pseudo)))
	return dst
}

// RouterAddr is the address of the n-th router on any way, counted from 1
// (out of RFC 5737's and RFC 3849's blocks for documentation).
func RouterAddr(n int, v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 15: byte(n)})
	}
	return netip.AddrFrom4([4]byte{192, 0, 2, byte(n)})
}

// sum is the internet checksum (RFC 1071) without its last complement.
func sum(b []byte, start uint32) uint16 {
	s := start
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}
