package tun

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"rendezvous/internal/dgram"
)

// headroom is kept before a segment, for what stands before it on the device.
const headroom = vnetSize + ip6Size

// maxPacket is the longest packet in bytes (its length has 16 bits).
const maxPacket = 65535

// joiner makes packets of segments: each burst's that continue one another
// become one super-segment, by the kernel's own rules (tcp_gro_receive).
type joiner struct {
	write    func(packet []byte) // gets each with its vnetHeader
	from, to netip.Addr          // of the packets

	buf  [headroom + maxPacket]byte
	run  []byte // the super-segment that grows, in buf; empty: none
	head int    // bytes of its header
	size int    // bytes of payload in each of its segments
	n    int    // how many
	next uint32 // the sequence number that continues it
	open bool   // it takes more
}

// join writes a burst's segments, in packets from from to to, and returns how
// many datagrams were none.
func (j *joiner) join(b dgram.Burst, from, to netip.Addr) (bad int) {
	j.from, j.to = from, to
	for d := range b.All() {
		head := headerSize(d)
		switch {
		case head == 0 || len(d) > maxPacket-ipSize(from):
			bad++
		case j.continues(d, head):
			j.add(d)
		default:
			j.flush()
			j.start(d, head)
		}
	}
	j.flush()
	return bad
}

// start begins a new run. Only what has payload and says nothing but ACK may be
// continued.
func (j *joiner) start(d []byte, head int) {
	j.run = append(j.buf[headroom:headroom], d...)
	j.head, j.size, j.n = head, len(d)-head, 1
	j.next = binary.BigEndian.Uint32(d[atSeq:]) + uint32(j.size)
	j.open = j.size > 0 && d[atFlags]&^(flagECE|flagCWR) == flagACK
}

// continues says whether d is the next segment of the run.
func (j *joiner) continues(d []byte, head int) bool {
	payload := len(d) - head
	return len(j.run) > 0 && j.open && head == j.head && payload > 0 && payload <= j.size &&
		binary.BigEndian.Uint32(d[atSeq:]) == j.next &&
		len(j.run)+payload <= maxPacket-ipSize(j.from) &&
		d[atFlags]&^(flagPSH|flagFIN) == j.run[atFlags]&^flagCWR &&
		bytes.Equal(d[:atSeq], j.run[:atSeq]) && // ports
		bytes.Equal(d[atAck:atFlags], j.run[atAck:atFlags]) &&
		bytes.Equal(d[atWindow:atChecksum], j.run[atWindow:atChecksum]) &&
		bytes.Equal(d[atUrgent:head], j.run[atUrgent:head]) // and options
}

// add appends a segment's payload to the run, which its end closes.
func (j *joiner) add(d []byte) {
	payload := d[j.head:]
	last := d[atFlags] & (flagPSH | flagFIN)
	j.run = append(j.run, payload...)
	j.run[atFlags] |= last
	j.n++
	j.next += uint32(len(payload))
	j.open = last == 0 && len(payload) == j.size
}

// flush hands the run to the device as one packet.
func (j *joiner) flush() {
	if len(j.run) == 0 {
		return
	}
	ip := ipSize(j.from)
	h := vnetHeader{flags: vnetNeedsSum, headers: uint16(ip + j.head), sumStart: uint16(ip), sumOffset: atChecksum}
	if j.n > 1 {
		h.kind, h.size = vnetTCP4, uint16(j.size)
		if !j.from.Is4() {
			h.kind = vnetTCP6
		}
		if j.run[atFlags]&flagCWR != 0 {
			h.kind |= vnetECN
		}
	}
	begin(j.run, j.from, j.to, len(j.run))
	whole := j.buf[headroom-ip-vnetSize : headroom+len(j.run)]
	h.put(whole)
	putIP(whole[vnetSize:], j.from, j.to, protocolTCP, len(j.run))
	j.run = nil
	j.write(whole)
}
