package tun

import (
	"encoding/binary"
	"fmt"
	"net/netip"
)

// Span is a range of inside addresses: its first address is the device's own,
// those behind it stand for peers. The zero Span has none.
type Span struct{ prefix netip.Prefix }

// The spans that are used where none is named: out of the block for measuring
// network devices, which no network uses (RFC 2544 appendix C.2.2), and a
// prefix of RFC 4193 that spells rdvtun.
const (
	DefaultSpan4 = "198.19.0.0/16"
	DefaultSpan6 = "fd72:6476:7475:6e00::/64"
)

// minPeers is how many addresses a span needs at least: the device's own and a
// peer's, besides IPv4's two for the network and for broadcast.
const minPeers = 2

// ParseSpan reads a prefix, as in 198.19.0.0/16.
func ParseSpan(s string) (Span, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		return Span{}, fmt.Errorf("%q is not a range of addresses like %s", s, DefaultSpan4)
	case p.Addr().Is4In6() || p.Addr().IsMulticast() || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast():
		return Span{}, fmt.Errorf("%q is no range that a device can have; %s is one", s, DefaultSpan4)
	}
	span := Span{p.Masked()}
	if span.peers() < minPeers-1 {
		return Span{}, fmt.Errorf("%q has no room for the device's own address and one peer's", s)
	}
	return span, nil
}

// IsValid says whether it is more than the zero Span.
func (s Span) IsValid() bool { return s.prefix.IsValid() }

// Own is the device's address, with the span's length.
func (s Span) Own() netip.Prefix {
	if !s.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(s.prefix.Addr().Next(), s.prefix.Bits())
}

// Peer is the address of the n-th peer, counted from 0; n is less than peers().
func (s Span) Peer(n int) netip.Addr {
	first := s.prefix.Addr()
	if first.Is4() {
		b := first.As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])+2+uint32(n))
		return netip.AddrFrom4(b)
	}
	b := first.As16() // at least the last 8 bits are zero
	low := binary.BigEndian.Uint64(b[8:])
	binary.BigEndian.PutUint64(b[8:], low|(2+uint64(n)))
	return netip.AddrFrom16(b)
}

// mostPeers bounds a span's use.
const mostPeers = 1 << 24

// peers is how many addresses stand for peers.
func (s Span) peers() int {
	host := s.prefix.Addr().BitLen() - s.prefix.Bits()
	if host > 24 {
		return mostPeers
	}
	if s.prefix.Addr().Is4() {
		return 1<<host - 3 // the network's, our own, broadcast's
	}
	return 1<<host - 2
}

func (s Span) String() string { return s.prefix.String() }
