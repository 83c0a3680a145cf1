package faketcp

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"rendezvous/internal/checksum"
)

// Sizes of headers in bytes, and where fields stand in them (RFC 791 section
// 3.1, RFC 8200 section 3, RFC 9293 section 3.1).
const (
	ip4Size    = 20
	ip6Size    = 40
	tcpSize    = 20
	maxOptions = 40

	tcpChecksum = 16 // offset of TCP's checksum in its header
	protocolTCP = 6
	defaultTTL  = 64

	// maxHeader is the longest that appendHeader writes.
	maxHeader = ip6Size + tcpSize + maxOptions
	// maxReceived is the longest that parse reads: IPv4 has options as well.
	maxReceived = 60 + tcpSize + maxOptions
	// maxPacket bounds an IPv4 packet, and the payload of an IPv6 one.
	maxPacket = 65535
)

// What parse finds wrong with a packet.
var (
	errShort    = errors.New("the packet is shorter than its headers say")
	errVersion  = errors.New("neither IPv4 nor IPv6")
	errFragment = errors.New("a fragment")
	errNotTCP   = errors.New("not TCP, or with IPv6 extension headers")
)

// headerSize is how many bytes of IP and TCP header s has.
func (s *segment) headerSize() int {
	n := ip4Size
	if s.remote.Addr().Is6() {
		n = ip6Size
	}
	return n + tcpSize + len(s.options)
}

// appendHeader appends the IP and the TCP header of a segment with payload
// bytes behind them. TCP's checksum is only begun: it is the sum over the pseudo
// header, to which whoever completes it (complete, the kernel, a network card)
// adds the rest. id is IPv4's identification; fragments are forbidden. Of the
// options no more than 40 bytes are taken, in fours.
func appendHeader(dst []byte, s *segment, id uint16, payload int) []byte {
	options := s.options[:min(len(s.options), maxOptions)&^3]
	length := tcpSize + len(options) + payload
	ttl := s.ttl
	if ttl == 0 {
		ttl = defaultTTL
	}
	if s.remote.Addr().Is4() {
		dst = appendIP4(dst, s, id, length, ttl)
	} else {
		dst = appendIP6(dst, s, length, ttl)
	}
	dst = binary.BigEndian.AppendUint16(dst, s.local.Port())
	dst = binary.BigEndian.AppendUint16(dst, s.remote.Port())
	dst = binary.BigEndian.AppendUint32(dst, s.seq)
	dst = binary.BigEndian.AppendUint32(dst, s.ack)
	dst = append(dst, byte(tcpSize+len(options))/4<<4, s.flags)
	dst = binary.BigEndian.AppendUint16(dst, s.window)
	dst = binary.BigEndian.AppendUint16(dst, checksum.Fold(checksum.Pseudo(s.local.Addr(), s.remote.Addr(), protocolTCP, length)))
	dst = binary.BigEndian.AppendUint16(dst, s.urgent)
	return append(dst, options...)
}

func appendIP4(dst []byte, s *segment, id uint16, length int, ttl uint8) []byte {
	at := len(dst)
	from, to := s.local.Addr().As4(), s.remote.Addr().As4()
	dst = append(dst, 0x45, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(ip4Size+length))
	dst = binary.BigEndian.AppendUint16(dst, id)
	dst = append(dst, 0x40, 0, ttl, protocolTCP, 0, 0) // 0x40: don't fragment
	dst = append(dst, from[:]...)
	dst = append(dst, to[:]...)
	binary.BigEndian.PutUint16(dst[at+10:], ^checksum.Fold(checksum.Sum(0, dst[at:])))
	return dst
}

func appendIP6(dst []byte, s *segment, length int, ttl uint8) []byte {
	from, to := s.local.Addr().As16(), s.remote.Addr().As16()
	dst = append(dst, 0x60, 0, 0, 0)
	dst = binary.BigEndian.AppendUint16(dst, uint16(length))
	dst = append(dst, protocolTCP, ttl)
	dst = append(dst, from[:]...)
	return append(dst, to[:]...)
}

// complete finishes the checksum that appendHeader began; tcp is the TCP
// header.
func complete(tcp, payload []byte) {
	all := ^checksum.Fold(checksum.Sum(checksum.Sum(0, tcp), payload))
	binary.BigEndian.PutUint16(tcp[tcpChecksum:], all)
}

// intact says whether the checksum of a received segment is right.
func intact(s *segment, tcp, payload []byte) bool {
	total := checksum.Pseudo(s.remote.Addr(), s.local.Addr(), protocolTCP, len(tcp)+len(payload))
	return checksum.Fold(checksum.Sum(checksum.Sum(total, tcp), payload)) == 0xffff
}

// parse reads the headers of a packet of which packet is the beginning, up to
// the whole, and total the length of the whole. It fills s and returns where
// TCP's header begins, where the payload does, and where that ends: what is
// behind is the link's padding.
func parse(packet []byte, total int, s *segment) (tcp, payload, end int, err error) {
	if len(packet) == 0 {
		return 0, 0, 0, errShort
	}
	var from, to netip.Addr
	switch packet[0] >> 4 {
	case 4:
		from, to, tcp, end, err = parseIP4(packet, s)
	case 6:
		from, to, tcp, end, err = parseIP6(packet, s)
	default:
		err = errVersion
	}
	if err != nil {
		return 0, 0, 0, err
	}
	if end > total || len(packet) < tcp+tcpSize {
		return 0, 0, 0, errShort
	}
	t := packet[tcp:]
	size := int(t[12]>>4) * 4
	payload = tcp + size
	if size < tcpSize || payload > end || len(t) < size {
		return 0, 0, 0, errShort
	}
	s.remote = netip.AddrPortFrom(from, binary.BigEndian.Uint16(t))
	s.local = netip.AddrPortFrom(to, binary.BigEndian.Uint16(t[2:]))
	s.seq, s.ack = binary.BigEndian.Uint32(t[4:]), binary.BigEndian.Uint32(t[8:])
	s.flags = t[13]
	s.window, s.urgent = binary.BigEndian.Uint16(t[14:]), binary.BigEndian.Uint16(t[18:])
	s.options = t[tcpSize:size:size]
	return tcp, payload, end, nil
}

func parseIP4(p []byte, s *segment) (from, to netip.Addr, size, end int, err error) {
	if len(p) < ip4Size {
		return from, to, 0, 0, errShort
	}
	size, end = int(p[0]&0xf)*4, int(binary.BigEndian.Uint16(p[2:]))
	switch {
	case size < ip4Size || end < size:
		return from, to, 0, 0, errShort
	case binary.BigEndian.Uint16(p[6:])&0x3fff != 0: // more fragments, or an offset
		return from, to, 0, 0, errFragment
	case p[9] != protocolTCP:
		return from, to, 0, 0, errNotTCP
	}
	s.ttl = p[8]
	return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), size, end, nil
}

func parseIP6(p []byte, s *segment) (from, to netip.Addr, size, end int, err error) {
	if len(p) < ip6Size {
		return from, to, 0, 0, errShort
	}
	if p[6] != protocolTCP {
		return from, to, 0, 0, errNotTCP
	}
	s.ttl = p[7]
	end = ip6Size + int(binary.BigEndian.Uint16(p[4:]))
	return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), ip6Size, end, nil
}
