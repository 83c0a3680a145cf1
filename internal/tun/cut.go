package tun

import (
	"encoding/binary"

	"rendezvous/internal/dgram"
)

// cutter makes the segments that cross of a packet's, which may be a
// super-segment.
type cutter struct {
	buf [dgram.MaxBytes]byte
}

// largest is how long the longest segment of p is, 0 where p holds none.
func largest(p packet, h vnetHeader) int {
	head := headerSize(p.segment)
	if head == 0 || h.kind == vnetPlain {
		return len(p.segment) * min(head, 1)
	}
	return min(head+int(h.size), len(p.segment))
}

// cut hands on p's segments with whole checksums, size bytes each, the last of
// a call may be shorter. They alias p or the cutter.
func (c *cutter) cut(p packet, h vnetHeader, send func(segments []byte, size int)) Reason {
	size := largest(p, h)
	switch {
	case size == 0:
		return BadLength
	case h.kind&^vnetECN != vnetPlain && h.kind&^vnetECN != vnetTCP4 && h.kind&^vnetECN != vnetTCP6:
		return BadLength // a super-segment that we did not say we take
	case size == len(p.segment):
		if h.flags&vnetNeedsSum != 0 {
			complete(p.segment, p.from, p.to)
		}
		send(p.segment, size)
		return Carried
	case h.size == 0 || size > len(c.buf):
		return BadLength
	}
	c.split(p, int(h.size), send)
	return Carried
}

// split lays out segments with step bytes of payload. Each has the
// super-segment's header, but the sequence number of its own; CWR is the
// first's alone, PSH and FIN the last's (as tcp_gso_segment in the kernel).
func (c *cutter) split(p packet, step int, send func(segments []byte, size int)) {
	head := headerSize(p.segment)
	header, payload := p.segment[:head], p.segment[head:]
	seq, flags := binary.BigEndian.Uint32(header[atSeq:]), header[atFlags]
	most := min(dgram.MaxSegments, len(c.buf)/(head+step)) * (head + step)
	out := c.buf[:0]
	for first := true; len(payload) > 0; first = false {
		piece := payload[:min(step, len(payload))]
		payload = payload[len(piece):]
		at := len(out)
		out = append(append(out, header...), piece...)
		s := out[at:]
		binary.BigEndian.PutUint32(s[atSeq:], seq)
		seq += uint32(len(piece))
		s[atFlags] = flags
		if !first {
			s[atFlags] &^= flagCWR
		}
		if len(payload) > 0 {
			s[atFlags] &^= flagPSH | flagFIN
		}
		complete(s, p.from, p.to)
		if len(out) >= most || len(payload) == 0 {
			send(out, head+step)
			out = c.buf[:0]
		}
	}
}
