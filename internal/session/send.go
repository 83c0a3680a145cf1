package session

import (
	"sync"
	"sync/atomic"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// route is where data goes now, replaced whole by one atomic store.
type route struct {
	path  path.Path
	kind  path.Kind
	mtu   int // bytes of the largest datagram that crosses path
	doubt bool
	also  *path.Path // while path is in doubt: the spare, which gets everything too
	tx    *atomic.Uint64
}

// txSize is room for a full burst and what sealing adds to each datagram.
const txSize = dgram.MaxBytes + dgram.MaxSegments*proto.Overhead

var txBuffers = sync.Pool{New: func() any { b := make([]byte, 0, txSize); return &b }}

// Send seals a burst of a flow and sends it over the best path. It reports
// whether there was a path and a key; what the path itself drops it can't
// know. Datagrams larger than the path are split, in a raw session refused.
func (s *Session) Send(flow uint16, b dgram.Burst) bool {
	r := s.route.Load()
	if r == nil {
		s.counts.drop(dropNoPath, b.Len())
		return false
	}
	return s.sendBy(r, flow, b)
}

// sendBy is Send over one route.
func (s *Session) sendBy(r *route, flow uint16, b dgram.Burst) bool {
	if s.seen.touch(&s.seen.sent, s.cfg.Timers.Active) {
		s.poke() // the path may have died while it was idle: probe at once
	}
	if s.cfg.Raw {
		return s.sendRaw(r, b)
	}
	k := s.keys.sending.Load()
	if k == nil {
		s.counts.drop(dropNoKeys, b.Len())
		return false
	}
	s.counts.sent(b.Len(), len(b.Buf))
	s.sendSealed(r, k, flow, b)
	return true
}

func (s *Session) sendSealed(r *route, k *sending, flow uint16, b dgram.Burst) {
	if min(b.Size, len(b.Buf))+proto.Overhead > r.mtu {
		for d := range b.All() {
			s.split(r, k, flow, d)
		}
		return
	}
	buf := txBuffers.Get().(*[]byte)
	out := k.seal((*buf)[:0], flow, b)
	s.write(r, out, min(b.Size, len(b.Buf))+proto.Overhead)
	*buf = out[:0]
	txBuffers.Put(buf)
}

// seal appends a burst's datagrams, sealed.
func (k *sending) seal(out []byte, flow uint16, b dgram.Burst) []byte {
	n := uint64(b.Len())
	counter := k.counter.Add(n) - n
	for d := range b.All() {
		out = k.sealer.Seal(out, k.epoch, flow, counter, d)
		counter++
	}
	return out
}

// write sends datagrams, sealed ones on both paths while the best is in doubt.
// Nothing tells raw ones apart, so a second copy would reach the service.
func (s *Session) write(r *route, buf []byte, size int) {
	out := dgram.Burst{Addr: r.path.Addr, Buf: buf, Size: size}
	r.tx.Add(uint64(out.Len()))
	if err := r.path.Conn.Write(out); err != nil {
		s.counts.drop(dropWriteError, out.Len())
		s.writeFailed(r.path, err, size)
	}
	if r.also != nil && !s.cfg.Raw {
		out.Addr = r.also.Addr
		if err := r.also.Conn.Write(out); err != nil {
			s.counts.drop(dropWriteError, out.Len())
		}
	}
}

// writeFailed learns from the kernel's refusal: too large a datagram lowers
// the path's MTU at once, anything else puts the path in doubt.
func (s *Session) writeFailed(p path.Path, err error, size int) {
	s.mu.Lock()
	if st := s.paths.states[p]; st != nil {
		if dgram.IsTooLarge(err) {
			st.size.refused(size)
			s.publish()
		} else {
			st.failing = true
		}
	}
	s.mu.Unlock()
	s.poke()
}

func (s *Session) sendRaw(r *route, b dgram.Burst) bool {
	if min(b.Size, len(b.Buf)) > r.mtu {
		return false // the flow's sealed way can split it
	}
	s.counts.sent(b.Len(), len(b.Buf))
	s.write(r, b.Buf, b.Size)
	return true
}

// SendFrame sends control to the peer once; who needs an answer repeats it.
func (s *Session) SendFrame(f *proto.Frame) bool { return s.frameBy(s.route.Load(), f) }

// SendFrameOver is SendFrame for what carries a datagram of a flow that may
// take only these kinds of path; see SendOver.
func (s *Session) SendFrameOver(only path.Kinds, f *proto.Frame) bool {
	if only == 0 {
		return s.SendFrame(f)
	}
	return s.frameBy(s.routeFor(only), f)
}

func (s *Session) frameBy(r *route, f *proto.Frame) bool {
	k := s.keys.sending.Load()
	if r == nil || k == nil {
		return false
	}
	body, err := proto.Marshal(f)
	if err != nil {
		s.counts.drop(dropBadFrame, 1)
		return false
	}
	s.sendSealed(r, k, proto.ControlFlow, dgram.One(r.path.Addr, append([]byte{proto.FrameControl}, body...)))
	return true
}
