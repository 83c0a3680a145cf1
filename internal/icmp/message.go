// Package icmp is how a host that nobody knows reaches one that waits behind a
// NAT, without a third party: the one that waits sends echo requests to an
// address where nobody is, and the other says, in the form of a router's "time
// exceeded" about such a request, that it calls. The NAT lets that in as
// belonging to the request. It is a trick, for experiments: any box on the way
// may see through it.
package icmp

import (
	"encoding/binary"
	"errors"
	"net/netip"

	"rendezvous/internal/checksum"
)

// Nowhere is where echo requests go: the first address of TEST-NET-1 (RFC 5737).
// It is nobody's and will never be, so no answer comes, and nobody is bothered.
// Hosts and home routers have no route for it but the default one, so that it
// passes the NATs, which is all that it has to do; carriers may drop it. Class E
// (240.0.0.0/4), by contrast, does not leave most hosts, and an address that is
// free today may be somebody's tomorrow.
var Nowhere = netip.AddrFrom4([4]byte{192, 0, 2, 1})

// RFC 792.
const (
	typeEcho     = 8
	typeExceeded = 11
	headerSize   = 8
	protocol     = 1
	ipSize       = 20
	ttl          = 1 // of the request that a router is said to have dropped
)

// identifier is that of all echo requests, lest the caller has to know it. A NAT
// with two who wait behind it may change one's.
const identifier = 0x7264

// ErrOther is the error for a message that is about something else.
var ErrOther = errors.New("the ICMP message is no time exceeded about our echo request")

// ErrForm is the error for one that is malformed.
var ErrForm = errors.New("the ICMP message is malformed")

// AppendEcho appends the echo request of who waits.
func AppendEcho(b []byte) []byte { return appendEcho(b, nil) }

func appendEcho(b, data []byte) []byte {
	start := len(b)
	b = append(b, typeEcho, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, identifier)
	b = append(append(b, 0, 0), data...)
	seal(b[start:])
	return b
}

// AppendExceeded appends what a router would say that dropped the request of the
// host that waits, seen at this address of IPv4 from outside. What it quotes of
// the request ends in data.
func AppendExceeded(b []byte, waiting netip.Addr, data []byte) []byte {
	start := len(b)
	b = append(b, typeExceeded, 0, 0, 0, 0, 0, 0, 0)
	from, to := waiting.As4(), Nowhere.As4()
	ip := len(b)
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(ipSize+headerSize+len(data)))
	b = append(b, 0, 0, 0, 0, ttl, protocol, 0, 0)
	b = append(append(b, from[:]...), to[:]...)
	binary.BigEndian.PutUint16(b[ip+10:], ^checksum.Fold(checksum.Sum(0, b[ip:ip+ipSize])))
	b = appendEcho(b, data)
	seal(b[start:])
	return b
}

// seal puts the checksum into a message.
func seal(m []byte) {
	m[2], m[3] = 0, 0
	binary.BigEndian.PutUint16(m[2:], ^checksum.Fold(checksum.Sum(0, m)))
}

// ParseExceeded gives the data that AppendExceeded appended; they are part of b.
// The errors are ErrOther and ErrForm. NATs on the way have changed addresses,
// and maybe the identifier.
func ParseExceeded(b []byte) (data []byte, err error) {
	switch {
	case len(b) < headerSize+ipSize:
		return nil, ErrForm
	case b[0] != typeExceeded || b[1] != 0:
		return nil, ErrOther
	case checksum.Fold(checksum.Sum(0, b)) != 0xffff:
		return nil, ErrForm
	}
	ip := b[headerSize:]
	size := int(ip[0]&0x0f) * 4
	switch {
	case ip[0]>>4 != 4 || size < ipSize || len(ip) < size+headerSize:
		return nil, ErrForm
	case ip[9] != protocol || netip.AddrFrom4([4]byte(ip[16:20])) != Nowhere || ip[size] != typeEcho:
		return nil, ErrOther
	}
	return ip[size+headerSize:], nil
}
