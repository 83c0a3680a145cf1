package session

import (
	"sync/atomic"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

// split sends one datagram that is larger than the path in parts of equal
// size, so that they leave as one burst.
func (s *Session) split(r *route, k *sending, flow uint16, d []byte) {
	room := r.mtu - proto.Overhead - proto.PartSize
	if len(d)+proto.Overhead <= r.mtu {
		s.sendSealed(r, k, flow, dgram.One(r.path.Addr, d))
		return
	}
	count := (len(d) + room - 1) / room
	if room <= 0 || count > proto.MaxParts {
		s.counts.drop(dropTooLarge, 1)
		return
	}
	id := s.join.next.Add(1)
	parts := make([]byte, 0, len(d)+count*proto.PartSize)
	for i := range count {
		parts = proto.AppendPart(parts, proto.Part{
			Flow: flow, ID: id, Index: uint8(i), Count: uint8(count), Payload: d[i*room : min((i+1)*room, len(d))],
		})
	}
	// One below the kernel's limit of a write at a time.
	const most = dgram.MaxBytes - dgram.MaxSegments*proto.Overhead
	stride := room + proto.PartSize
	for batch := most / stride * stride; len(parts) > 0; {
		n := min(batch, len(parts))
		s.sendSealed(r, k, proto.ControlFlow, dgram.Burst{Addr: r.path.Addr, Buf: parts[:n], Size: min(stride, n)})
		parts = parts[n:]
	}
}

// joiner puts parts together again, and numbers those that we make.
type joiner struct {
	next atomic.Uint32 // the id of the next datagram we split
	proto.Joiner
}
