package portmap

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// NAT-PMP's constants (RFC 6886 section 3).
const (
	pmpVersion  = 0
	pmpAddress  = 0
	pmpMapUDP   = 1
	pmpMapTCP   = 2
	pmpResponse = 128
)

// pmpResults are the result codes (RFC 6886 section 3.5).
var pmpResults = [...]string{"success", "unsupported version", "not authorized", "network failure: it has no address outside yet",
	"out of resources", "unsupported opcode"}

// pmpRequest asks for the external address, or for a mapping; a lifetime of 0
// and an external port of 0 take it back (RFC 6886 section 3.4).
type pmpRequest struct {
	opcode             byte
	internal, external uint16
	lifetime           time.Duration
}

// pmpAnswer is a response; which of the last fields are set depends on the
// opcode.
type pmpAnswer struct {
	opcode             byte
	result             uint16
	epoch              uint32
	address            netip.Addr
	internal, external uint16
	lifetime           time.Duration
}

func pmpMap(t Transport) byte {
	if t == TCP {
		return pmpMapTCP
	}
	return pmpMapUDP
}

// encode lays out a request (RFC 6886 sections 3.2 and 3.3):
//
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|  Version = 0  |    Opcode     |     reserved, of mappings     |
//	|         internal port         |    suggested external port    |
//	|                 requested lifetime, seconds                   |
func (r pmpRequest) encode() []byte {
	b := []byte{pmpVersion, r.opcode}
	if r.opcode == pmpAddress {
		return b
	}
	b = append(b, 0, 0)
	b = binary.BigEndian.AppendUint16(b, r.internal)
	b = binary.BigEndian.AppendUint16(b, r.external)
	return binary.BigEndian.AppendUint32(b, uint32(r.lifetime/time.Second))
}

// decodePMP reads a response (RFC 6886 sections 3.2, 3.3 and 3.5). A refusal
// may end after the epoch.
func decodePMP(b []byte) (pmpAnswer, error) {
	const head, withAddress, withMapping = 8, 12, 16
	switch {
	case len(b) < head || len(b) > pcpLongest:
		return pmpAnswer{}, faultf(badAnswer, "NAT-PMP: an answer of %d bytes", len(b))
	case b[0] != pmpVersion:
		return pmpAnswer{}, faultf(badAnswer, "NAT-PMP: an answer of version %d", b[0])
	case b[1] < pmpResponse:
		return pmpAnswer{}, faultf(badAnswer, "NAT-PMP: a request in place of an answer")
	}
	a := pmpAnswer{opcode: b[1] - pmpResponse, result: binary.BigEndian.Uint16(b[2:]), epoch: binary.BigEndian.Uint32(b[4:])}
	if a.result != 0 {
		if a.opcode != pmpAddress && len(b) >= head+2 {
			a.internal = binary.BigEndian.Uint16(b[8:])
		}
		return a, nil
	}
	switch {
	case a.opcode == pmpAddress && len(b) >= withAddress:
		a.address = netip.AddrFrom4([4]byte(b[8:12]))
	case (a.opcode == pmpMapUDP || a.opcode == pmpMapTCP) && len(b) >= withMapping:
		a.internal, a.external = binary.BigEndian.Uint16(b[8:]), binary.BigEndian.Uint16(b[10:])
		a.lifetime = seconds(binary.BigEndian.Uint32(b[12:]))
	default:
		return pmpAnswer{}, faultf(badAnswer, "NAT-PMP: an answer of %d bytes to opcode %d", len(b), a.opcode)
	}
	return a, nil
}

// refusal is nil for success.
func (a pmpAnswer) refusal() error {
	if a.result == 0 {
		return nil
	}
	text := "an unknown result"
	if int(a.result) < len(pmpResults) {
		text = pmpResults[a.result]
	}
	f := faultf(refusedIt, "NAT-PMP: %s (result %d)", text, a.result)
	f.code = int(a.result)
	return f
}
