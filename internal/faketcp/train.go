package faketcp

import "rendezvous/internal/dgram"

// train is segments of one flow that follow each other: the first one's header,
// and the payloads of all.
type train struct {
	seg   segment
	burst dgram.Burst
}

// join makes other, which came next, part of r, where it is what r's sender
// sent behind it: then whoever sends them on needs one system call. Network
// cards and the kernel do the same (GRO), where they can.
func (r *train) join(other *train) bool {
	s, o := &r.seg, &other.seg
	b, more := &r.burst, other.burst
	switch {
	case o.remote != s.remote, o.local != s.local, o.seq != s.seq+uint32(len(b.Buf)), o.ack != s.ack:
		return false
	case (s.flags|o.flags)&^flagPSH != flagACK, o.window != s.window, o.ttl != s.ttl, len(s.options)+len(o.options) > 0:
		return false
	case len(b.Buf) == 0 || len(more.Buf) == 0 || len(b.Buf)%b.Size != 0:
		return false
	case more.Size > b.Size, more.Size < b.Size && more.Len() > 1:
		return false
	}
	total := len(b.Buf) + len(more.Buf)
	if total > min(dgram.MaxSegments*b.Size, dgram.MaxBytes, cap(b.Buf)) {
		return false
	}
	b.Buf = append(b.Buf, more.Buf...)
	s.flags |= o.flags
	return true
}

// show lets visit see r, which no longer grows.
func (r *train) show(visit func(s *segment, b dgram.Burst)) {
	b := r.burst
	b.Buf = b.Buf[:len(b.Buf):len(b.Buf)]
	visit(&r.seg, b)
}
