package tun

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
)

var (
	a4 = netip.MustParseAddr("198.19.0.1")
	b4 = netip.MustParseAddr("203.0.113.10")
	a6 = netip.MustParseAddr("fd72::1")
	b6 = netip.MustParseAddr("2001:db8::10")
)

// slowSum is RFC 1071's sum as its section 4.1 writes it, over words of 16 bits.
func slowSum(pieces ...[]byte) uint16 {
	b := slices.Concat(pieces...)
	if len(b)%2 == 1 {
		b = append(b, 0)
	}
	total := uint32(0)
	for i := 0; i < len(b); i += 2 {
		total += uint32(b[i])<<8 | uint32(b[i+1])
		total = total>>16 + total&0xffff
	}
	return uint16(total)
}

// slowPseudo is the pseudo header of a segment.
func slowPseudo(from, to netip.Addr, protocol byte, length int) []byte {
	tail := binary.BigEndian.AppendUint32(nil, uint32(length))
	if from.Is4() {
		return slices.Concat(from.AsSlice(), to.AsSlice(), []byte{0, protocol}, tail[2:])
	}
	return slices.Concat(from.AsSlice(), to.AsSlice(), tail, []byte{0, 0, 0, protocol})
}

// checksumIsRight says whether a whole segment's checksum is right.
func checksumIsRight(segment []byte, from, to netip.Addr) bool {
	return slowSum(slowPseudo(from, to, protocolTCP, len(segment)), segment) == 0xffff
}

// tcp makes a segment with a right checksum.
func tcp(from, to netip.Addr, seq uint32, flags byte, options, payload []byte) []byte {
	s := make([]byte, minSegment, minSegment+len(options)+len(payload))
	binary.BigEndian.PutUint16(s, 40001)
	binary.BigEndian.PutUint16(s[2:], 443)
	binary.BigEndian.PutUint32(s[atSeq:], seq)
	binary.BigEndian.PutUint32(s[atAck:], 0x01020304)
	s[atOffset] = byte(minSegment+len(options)) / 4 << 4
	s[atFlags] = flags
	binary.BigEndian.PutUint16(s[atWindow:], 501)
	s = append(append(s, options...), payload...)
	binary.BigEndian.PutUint16(s[atChecksum:], ^slowSum(slowPseudo(from, to, protocolTCP, len(s)), s))
	return s
}

// ip makes a packet as the kernel would.
func ip(from, to netip.Addr, protocol byte, body []byte) []byte {
	if from.Is4() {
		h := []byte{0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0}
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(body)))
		h = slices.Concat(h, from.AsSlice(), to.AsSlice())
		binary.BigEndian.PutUint16(h[10:], ^slowSum(h))
		return append(h, body...)
	}
	h := []byte{0x60, 0, 0, 0, 0, 0, protocol, 64}
	binary.BigEndian.PutUint16(h[4:], uint16(len(body)))
	return slices.Concat(h, from.AsSlice(), to.AsSlice(), body)
}

// pattern is n bytes of which no two neighbours are alike.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + i>>8)
	}
	return b
}

// received is a packet that the device got, taken apart with its checksums
// checked against the slow reference.
type received struct {
	packet
	head vnetHeader
}

// checkReceived takes apart what was written to the device and checks all that
// the kernel relies on.
func checkReceived(t *testing.T, b []byte) received {
	t.Helper()
	var r received
	r.head.read(b)
	raw := b[vnetSize:]
	p, why := parse(raw)
	if why != Carried {
		t.Fatalf("the device got what we would drop as %v: %x", why, raw)
	}
	r.packet = p
	size := ipSize(p.from)
	if p.from.Is4() && slowSum(raw[:ip4Size]) != 0xffff {
		t.Errorf("IPv4's checksum is wrong: %x", raw[:ip4Size])
	}
	if r.head.flags != vnetNeedsSum || int(r.head.sumStart) != size || r.head.sumOffset != atChecksum || int(r.head.headers) != size+headerSize(p.segment) {
		t.Errorf("the kernel is asked for something else: %+v", r.head)
	}
	if got, want := binary.BigEndian.Uint16(p.segment[atChecksum:]), slowSum(slowPseudo(p.from, p.to, protocolTCP, len(p.segment))); got != want {
		t.Errorf("the checksum begins with %#x, want the pseudo header's %#x", got, want)
	}
	if got := r.completed(); !checksumIsRight(got, p.from, p.to) {
		t.Errorf("completed as the kernel does it, the checksum is wrong: %x", got[:minSegment])
	}
	return r
}

// completed is the segment with the checksum that a device would put in.
func (r received) completed() []byte {
	s := slices.Clone(r.segment)
	binary.BigEndian.PutUint16(s[atChecksum:], ^slowSum(s))
	return s
}
