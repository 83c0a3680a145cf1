package tun

import (
	"encoding/binary"

	"rendezvous/internal/checksum"
)

// What ICMP says of a packet that is too large (RFC 792 with RFC 1191 section
// 4, RFC 4443 section 3.2), and how much it quotes at most: the whole is no
// longer than every host takes (RFC 1812 section 4.3.2.3, RFC 8200 section 5).
const (
	icmpUnreachable = 3
	icmpFragment    = 4
	icmp6TooBig     = 2
	icmpSize        = 8

	most4 = 576
	most6 = 1280
)

// appendTooBig appends a packet that tells the sender of p, which is raw, that
// mtu bytes cross. It comes from the address that p was sent to: there is no
// router that it could come from.
func appendTooBig(dst []byte, p packet, raw []byte, mtu int) []byte {
	at, six := len(dst), p.from.Is6()
	ip, most := ip4Size, most4
	message := [icmpSize]byte{icmpUnreachable, icmpFragment}
	if six {
		ip, most = ip6Size, most6
		message = [icmpSize]byte{icmp6TooBig}
	}
	binary.BigEndian.PutUint32(message[4:], uint32(mtu)) // IPv4: 16 bits behind two that are zero
	dst = append(dst, make([]byte, ip)...)
	dst = append(dst, message[:]...)
	dst = append(dst, raw[:min(len(raw), most-ip-icmpSize)]...)
	body := dst[at+ip:]
	protocol, total := uint8(protocolICMP), uint64(0)
	if six {
		protocol, total = protocolICMPv6, checksum.Pseudo(p.to, p.from, protocolICMPv6, len(body))
	}
	binary.BigEndian.PutUint16(body[2:], ^checksum.Fold(checksum.Sum(total, body)))
	putIP(dst[at:], p.to, p.from, protocol, len(body))
	return dst
}
