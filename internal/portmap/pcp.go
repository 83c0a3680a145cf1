package portmap

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// udpPort is where gateways answer PCP and NAT-PMP (RFC 6887 section 19).
const udpPort = 5351

// PCP's constants (RFC 6887 sections 7, 11 and 14.1).
const (
	pcpVersion  = 2
	pcpAnnounce = 0
	pcpMap      = 1
	pcpResponse = 0x80
	pcpHeader   = 24
	pcpMapSize  = 36
	pcpLongest  = 1100
)

// pcpResults are the result codes (RFC 6887 section 7.4).
var pcpResults = [...]string{"success", "unsupported version", "not authorized", "malformed request", "unsupported opcode",
	"unsupported option", "malformed option", "network failure", "no resources", "unsupported protocol", "over the quota of this host",
	"it can't provide that external address", "the address it sees is not the one we have: another NAT lies between", "excessive remote peers"}

const (
	pcpSuccess            = 0
	pcpUnsupportedVersion = 1
)

type pcpNonce [12]byte

// pcpRequest is MAP, or ANNOUNCE.
type pcpRequest struct {
	client   netip.Addr
	announce bool
	lifetime time.Duration
	nonce    pcpNonce
	port     Port
	external netip.AddrPort // suggested
}

// pcpAnswer is a response. nonce and what follows are of MAP.
type pcpAnswer struct {
	opcode   byte
	result   byte
	lifetime time.Duration
	epoch    uint32
	nonce    pcpNonce
	proto    Transport
	internal uint16
	external netip.AddrPort
}

// encode lays out a request (RFC 6887 sections 7.1 and 11.1):
//
//	 0                   1                   2                   3
//	 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//	+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//	|  Version = 2  |0|   Opcode    |           reserved            |
//	|                 requested lifetime, seconds                   |
//	|                 client's address, 128 bits                    |
//	| MAP:            nonce, 96 bits                                |
//	|   protocol    |                 reserved                      |
//	|         internal port         |    suggested external port    |
//	|           suggested external address, 128 bits                |
func (r pcpRequest) encode() []byte {
	b := make([]byte, pcpHeader, pcpHeader+pcpMapSize)
	b[0] = pcpVersion
	client := r.client.WithZone("").As16()
	copy(b[8:], client[:])
	if r.announce {
		b[1] = pcpAnnounce
		return b
	}
	b[1] = pcpMap
	binary.BigEndian.PutUint32(b[4:], uint32(r.lifetime/time.Second))
	b = append(b, r.nonce[:]...)
	b = append(b, byte(r.port.Transport), 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, r.port.Number)
	b = binary.BigEndian.AppendUint16(b, r.external.Port())
	ip := anyAddr(r.client.Is6())
	if r.external.Addr().IsValid() {
		ip = r.external.Addr()
	}
	external := ip.As16()
	return append(b, external[:]...)
}

// anyAddr is how PCP writes "no address in particular" (RFC 6887 section 5).
func anyAddr(six bool) netip.Addr {
	if six {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

// decodePCP reads a response (RFC 6887 sections 7.2, 8.3 and 11.1). Options
// are left unread: none was asked for.
func decodePCP(b []byte) (pcpAnswer, error) {
	switch {
	case len(b) < pcpHeader || len(b) > pcpLongest || len(b)%4 != 0:
		return pcpAnswer{}, faultf(badAnswer, "PCP: an answer of %d bytes", len(b))
	case b[0] != pcpVersion:
		return pcpAnswer{}, faultf(badAnswer, "PCP: an answer of version %d", b[0])
	case b[1]&pcpResponse == 0:
		return pcpAnswer{}, faultf(badAnswer, "PCP: a request in place of an answer")
	}
	a := pcpAnswer{opcode: b[1] &^ pcpResponse, result: b[3], lifetime: seconds(binary.BigEndian.Uint32(b[4:])), epoch: binary.BigEndian.Uint32(b[8:])}
	if a.opcode != pcpMap || len(b) < pcpHeader+pcpMapSize {
		if a.opcode == pcpMap && a.result == pcpSuccess {
			return pcpAnswer{}, faultf(badAnswer, "PCP: a MAP answer of %d bytes", len(b))
		}
		return a, nil
	}
	m := b[pcpHeader:]
	copy(a.nonce[:], m)
	a.proto = Transport(m[12])
	a.internal = binary.BigEndian.Uint16(m[16:])
	ip := netip.AddrFrom16([16]byte(m[20:36])).Unmap()
	a.external = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(m[18:]))
	return a, nil
}

func seconds(n uint32) time.Duration { return time.Duration(n) * time.Second }

// refusal is nil for success.
func (a pcpAnswer) refusal() error {
	if a.result == pcpSuccess {
		return nil
	}
	text := "an unknown result"
	if int(a.result) < len(pcpResults) {
		text = pcpResults[a.result]
	}
	f := faultf(refusedIt, "PCP: %s (result %d)", text, a.result)
	f.code, f.wait = int(a.result), a.lifetime
	return f
}
