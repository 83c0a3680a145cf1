//go:build linux

package hop

import (
	"encoding/binary"
	"net/netip"
)

// Header fields of TCP (RFC 9293 section 3.1).
const (
	protoTCP  = 6
	tcpHeader = 20

	flagFIN = 1 << 0
	flagSYN = 1 << 1
	flagRST = 1 << 2
	flagACK = 1 << 4

	optionEnd, optionNop = 0, 1
	optionSACK           = 5 // RFC 2018 section 3
)

// Segment is a TCP segment, header first, inside a packet.
type Segment []byte

// TCP is the packet's segment; false when it carries none or is a fragment.
func TCP(packet []byte) (Segment, bool) {
	p, protocol := payload(packet)
	if protocol != protoTCP || len(p) < tcpHeader {
		return nil, false
	}
	if head := int(p[12]>>4) * 4; head < tcpHeader || head > len(p) {
		return nil, false
	}
	return Segment(p), true
}

// payload is what the IP packet carries, and its protocol; -1 for what is
// broken or a fragment.
func payload(p []byte) ([]byte, int) {
	switch {
	case len(p) >= ipv4Header && p[0]>>4 == 4:
		head, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
		if head < ipv4Header || total < head || total > len(p) || isFragment(p) {
			return nil, -1
		}
		return p[head:total], int(p[9])
	case len(p) >= ipv6Header && p[0]>>4 == 6:
		total := ipv6Header + int(binary.BigEndian.Uint16(p[4:]))
		if total > len(p) {
			return nil, -1
		}
		return p[ipv6Header:total], int(p[6])
	}
	return nil, -1
}

// Has says whether all these flags are set.
func (s Segment) Has(flags byte) bool { return s[13]&flags == flags }

// Reset says whether the segment resets its connection.
func (s Segment) Reset() bool { return s.Has(flagRST) }

// Sequence and Acknowledged are the header's numbers.
func (s Segment) Sequence() uint32 { return binary.BigEndian.Uint32(s[4:]) }

// Acknowledged means nothing unless the ACK flag is set.
func (s Segment) Acknowledged() uint32 { return binary.BigEndian.Uint32(s[8:]) }

// Window is the field, unscaled.
func (s Segment) Window() uint16 { return binary.BigEndian.Uint16(s[14:]) }

// Ports are source and destination.
func (s Segment) Ports() (src, dst uint16) {
	return binary.BigEndian.Uint16(s), binary.BigEndian.Uint16(s[2:])
}

// Options are the header's options, padding included.
func (s Segment) Options() []byte { return s[tcpHeader : int(s[12]>>4)*4] }

// Data is what the segment carries.
func (s Segment) Data() []byte { return s[int(s[12]>>4)*4:] }

// length is what the segment takes of the sequence space.
func (s Segment) length() uint32 {
	n := uint32(len(s.Data()))
	if s.Has(flagSYN) {
		n++
	}
	if s.Has(flagFIN) {
		n++
	}
	return n
}

// alter changes the header and mends the checksum by the difference (RFC 1624),
// so that one that was wrong stays wrong.
func (s Segment) alter(change func()) {
	head := s[:int(s[12]>>4)*4]
	before := sum(head, 0)
	change()
	after := sum(head, 0)
	old := binary.BigEndian.Uint16(s[16:])
	total := uint32(^old) + uint32(^before) + uint32(after)
	for total>>16 != 0 {
		total = total&0xffff + total>>16
	}
	binary.BigEndian.PutUint16(s[16:], ^uint16(total))
}

// eachOption visits the options, each with its kind and length bytes. It ends
// at the first broken one.
func (s Segment) eachOption(visit func(option []byte)) {
	for o := s.Options(); len(o) > 0 && o[0] != optionEnd; {
		size := 1
		if o[0] != optionNop {
			if len(o) < 2 || o[1] < 2 || int(o[1]) > len(o) {
				return
			}
			size = int(o[1])
		}
		visit(o[:size])
		o = o[size:]
	}
}

// Flow is a connection as one side of a box sees it.
type Flow struct{ Inner, Outer netip.AddrPort }

// flowOf is the flow of a packet that leaves the port (outward) or comes to it.
func flowOf(packet []byte, s Segment, outward bool) Flow {
	var src, dst netip.Addr
	if packet[0]>>4 == 4 {
		src, dst = netip.AddrFrom4([4]byte(packet[12:16])), netip.AddrFrom4([4]byte(packet[16:20]))
	} else {
		src, dst = netip.AddrFrom16([16]byte(packet[8:24])), netip.AddrFrom16([16]byte(packet[24:40]))
	}
	sport, dport := s.Ports()
	from, to := netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	if outward {
		return Flow{Inner: from, Outer: to}
	}
	return Flow{Inner: to, Outer: from}
}

// resetFor appends the RST with which a box answers a segment (RFC 9293 section
// 3.10.7.1), nil for what is itself one.
func resetFor(dst, packet []byte, s Segment) []byte {
	if s.Has(flagRST) {
		return nil
	}
	head := ipv4Header
	if packet[0]>>4 == 6 {
		head = ipv6Header
	}
	dst = append(dst, make([]byte, head+tcpHeader)...)
	if head == ipv4Header {
		dst[0], dst[8], dst[9] = 0x45, 64, protoTCP
		binary.BigEndian.PutUint16(dst[2:], uint16(len(dst)))
		copy(dst[12:], packet[16:20])
		copy(dst[16:], packet[12:16])
		setHeaderChecksum(dst)
	} else {
		dst[0], dst[6], dst[7] = 0x60, protoTCP, 64
		binary.BigEndian.PutUint16(dst[4:], tcpHeader)
		copy(dst[8:], packet[24:40])
		copy(dst[24:], packet[8:24])
	}
	r := Segment(dst[head:])
	copy(r, s[2:4])
	copy(r[2:], s[0:2])
	r[12], r[13] = tcpHeader/4<<4, flagRST
	if s.Has(flagACK) {
		binary.BigEndian.PutUint32(r[4:], s.Acknowledged())
	} else {
		r[13] |= flagACK
		binary.BigEndian.PutUint32(r[8:], s.Sequence()+s.length())
	}
	setChecksumTCP(dst)
	return dst
}

// setChecksumTCP computes the checksum of the packet's whole segment, over the
// pseudo header of its family.
func setChecksumTCP(packet []byte) {
	p, _ := payload(packet)
	binary.BigEndian.PutUint16(p[16:], 0)
	binary.BigEndian.PutUint16(p[16:], ^sumTCP(packet, p))
}

// sumTCP is 0xffff where the segment's checksum is right.
func sumTCP(packet, segment []byte) uint16 {
	addrs := packet[12:20]
	if packet[0]>>4 == 6 {
		addrs = packet[8:40]
	}
	return sum(segment, uint32(sum(addrs, uint32(len(segment))+protoTCP)))
}
