package proto

import (
	"encoding/binary"
	"net/netip"
)

// CallSize is the size of a call, its MAC included, in bytes.
const CallSize = callBodySize + 16

const callBodySize = 4 + 2 + 8

// Call says, by way of ICMP, where somebody is who wants to meet:
//
//	+----------+----------+------------------+----------+
//	| IPv4 (4) | port (2) | Unix seconds (8) | MAC (16) |
//	+----------+----------+------------------+----------+
type Call struct {
	At   netip.AddrPort // its address is 0.0.0.0 where the caller does not know it
	Made int64          // Unix seconds
	MAC  [16]byte
}

// AppendCallBody appends what the MAC is over.
func AppendCallBody(b []byte, c Call) []byte {
	ip := c.At.Addr().As4()
	b = binary.BigEndian.AppendUint16(append(b, ip[:]...), c.At.Port())
	return binary.BigEndian.AppendUint64(b, uint64(c.Made))
}

// AppendCall appends a call.
func AppendCall(b []byte, c Call) []byte { return append(AppendCallBody(b, c), c.MAC[:]...) }

// ParseCall reads what AppendCall wrote; boxes on the way may have added to it.
func ParseCall(b []byte) (Call, error) {
	if len(b) < CallSize {
		return Call{}, ErrShort
	}
	return Call{
		At:   netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), binary.BigEndian.Uint16(b[4:])),
		Made: int64(binary.BigEndian.Uint64(b[6:])),
		MAC:  [16]byte(b[callBodySize:]),
	}, nil
}
