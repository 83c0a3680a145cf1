package gateway

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// mapped answers what comes to the port of PCP and NAT-PMP.
func (g *Gateway) mapped(from netip.AddrPort, q []byte) []byte {
	g.mu.Lock()
	defer g.mu.Unlock()
	o := g.options
	switch {
	case len(q) < 2 || !o.PCP && !o.NATPMP:
		return nil
	case q[0] == 0 && o.NATPMP && from.Addr().Is4():
		return g.pmp(from.Addr(), q)
	case q[0] == 0 && o.PCP: // RFC 6887 appendix A
		return g.pcpHead(0, 1, 0)
	case q[0] == 2 && o.PCP && len(q) >= 24:
		return g.pcp(from.Addr(), q)
	case q[0] != 0 && o.NATPMP: // RFC 6886 section 3.5
		return g.pmpHead(q[1], 1)
	}
	return nil
}

func (g *Gateway) pmpHead(opcode byte, result uint16) []byte {
	b := []byte{0, 128 | opcode}
	b = binary.BigEndian.AppendUint16(b, result)
	return binary.BigEndian.AppendUint32(b, g.epoch())
}

func (g *Gateway) pmp(from netip.Addr, q []byte) []byte {
	switch {
	case q[1] == 0:
		g.note("pmp address")
		ip := g.external().As4()
		return append(g.pmpHead(0, 0), ip[:]...)
	case q[1] > 2 || len(q) < 12:
		return g.pmpHead(q[1], 5)
	}
	k := key{q[1] == 2, netip.AddrPortFrom(from, binary.BigEndian.Uint16(q[4:]))}
	external, life := binary.BigEndian.Uint16(q[6:]), time.Duration(binary.BigEndian.Uint32(q[8:]))*time.Second
	b := append(g.pmpHead(q[1], 0), q[4], q[5])
	if life == 0 {
		g.note("pmp delete")
		g.remove(k)
		return append(b, 0, 0, 0, 0, 0, 0)
	}
	g.note("pmp map")
	life = min(life, g.options.Longest)
	b = binary.BigEndian.AppendUint16(b, g.hold(k, external, life))
	return binary.BigEndian.AppendUint32(b, uint32(life/time.Second))
}

func (g *Gateway) pcpHead(opcode, result byte, life time.Duration) []byte {
	b := make([]byte, 24)
	b[0], b[1], b[3] = 2, 0x80|opcode, result
	binary.BigEndian.PutUint32(b[4:], uint32(life/time.Second))
	binary.BigEndian.PutUint32(b[8:], g.epoch())
	return b
}

func (g *Gateway) pcp(from netip.Addr, q []byte) []byte {
	if client := netip.AddrFrom16([16]byte(q[8:24])).Unmap(); client != from {
		g.note("pcp mismatch")
		return g.pcpHead(q[1], 12, 30*time.Minute)
	}
	if q[1] == 0 {
		g.note("pcp announce")
		return g.pcpHead(0, 0, 0)
	}
	if q[1] != 1 || len(q) < 60 {
		return g.pcpHead(q[1], 4, 30*time.Minute)
	}
	m := q[24:60]
	k := key{m[12] == 6, netip.AddrPortFrom(from, binary.BigEndian.Uint16(m[16:]))}
	nonce, life := [12]byte(m[:12]), time.Duration(binary.BigEndian.Uint32(q[4:]))*time.Second
	if e := g.held[k]; e != nil && e.nonce != nonce {
		g.note("pcp nonce")
		return append(g.pcpHead(1, 2, 30*time.Minute), m...)
	}
	answer := func(life time.Duration, external netip.AddrPort) []byte {
		b := append(g.pcpHead(1, 0, life), m...)
		binary.BigEndian.PutUint16(b[24+18:], external.Port())
		ip := external.Addr().As16()
		copy(b[24+20:], ip[:])
		return b
	}
	if life == 0 {
		g.note("pcp delete")
		g.remove(k)
		return answer(0, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	}
	g.note("pcp map")
	life = min(life, g.options.Longest)
	external := g.hold(k, binary.BigEndian.Uint16(m[18:]), life)
	g.held[k].nonce = nonce
	if from.Is6() { // a pinhole: nothing is translated
		return answer(life, k.internal)
	}
	return answer(life, netip.AddrPortFrom(g.external(), external))
}
