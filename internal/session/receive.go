package session

import (
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// Rx is the memory that a reader's goroutine opens datagrams in.
type Rx struct {
	out    []byte
	in     []sealed // as many as a burst has
	n      int
	misses int // datagrams of this burst that opened under no window
	data   int // datagrams of this burst that are data
	opened int // of those, the ones that opened
}

// Foreign says whether the last burst held data and none of it was the
// session's.
func (rx *Rx) Foreign() bool { return rx.data > 0 && rx.opened == 0 }

// sealed is one datagram on its way through Receive.
type sealed struct {
	datagram []byte
	head     proto.Header
	counter  uint64
	fresh    bool
	begin    int // of the plaintext in out
	end      int
}

// NewRx makes an Rx. Its memory is made when there is something to open: of the
// hundreds of sockets that a spray opens, data comes to one.
func NewRx() *Rx { return &Rx{} }

// Receive takes a burst that came on p, a path of kind k. It reports whether
// a probe in it proved that its sender is the peer, so that the conn's reader
// may route p's address here from now on.
func (s *Session) Receive(rx *Rx, p path.Path, k path.Kind, b dgram.Burst) (proven bool) {
	if s.cfg.Raw {
		return s.receiveRaw(p, k, b)
	}
	rx.n, rx.data, rx.opened = 0, 0, 0
	for d := range b.All() {
		switch proto.KindOf(d) {
		case proto.KindData:
			h, err := proto.ParseHeader(d)
			if err != nil {
				s.counts.drop(dropBadHeader, 1)
				continue
			}
			if rx.in == nil {
				rx.in = make([]sealed, dgram.MaxSegments)
			}
			if rx.n == len(rx.in) || rx.n > 0 && rx.in[0].head.Epoch != h.Epoch {
				s.open(rx, p)
			}
			rx.in[rx.n] = sealed{datagram: d, head: h}
			rx.n++
			rx.data++
		case proto.KindProbe, proto.KindProbeAnswer:
			proven = s.receiveProbe(p, k, d) || proven
		default:
			s.counts.drop(dropBadHeader, 1)
		}
	}
	s.open(rx, p)
	return proven
}

// open opens what was gathered in rx, all of one epoch, and delivers it.
func (s *Session) open(rx *Rx, p path.Path) {
	if rx.n == 0 {
		return
	}
	in := rx.in[:rx.n]
	rx.n = 0
	key := s.keys.received[in[0].head.Epoch&1].Load()
	if key == nil {
		s.counts.drop(dropNoKeys, len(in))
		return
	}
	key.mu.Lock()
	expected := key.window.Expected()
	for i := range in {
		d := &in[i]
		d.counter = proto.CompleteCounter(expected, d.head.Counter)
		d.fresh = key.window.Fresh(d.counter)
		expected = max(expected, d.counter+1)
	}
	key.mu.Unlock()
	if rx.out == nil {
		rx.out = make([]byte, 0, dgram.SlotSize)
	}
	rx.out, rx.misses = rx.out[:0], 0
	for i := range in {
		s.openOne(rx, key, &in[i])
	}
	accepted := 0
	key.mu.Lock()
	for i := range in {
		d := &in[i]
		if d.end >= 0 && !key.window.Accept(d.counter) {
			s.counts.drop(dropReplayed, 1)
			d.end = -1
		}
		if d.end >= 0 {
			accepted++
		}
	}
	key.mu.Unlock()
	if accepted == 0 {
		return
	}
	rx.opened += accepted
	s.keys.settle(key.epoch)
	s.confirm()
	s.heard(p, accepted)
	s.deliver(rx, in)
}

// windows are by how many windows of the truncated counter a datagram may be
// off from what was expected. Ahead: after a blackout at full speed; 4 x
// 16,384 datagrams are 75 ms at 10 Gbit/s, and longer ones are bridged by
// probes, which carry the counter whole. Behind: on a slow relay, while a
// faster path has taken over.
var windows = [...]int64{1, -1, 2, 3, 4}

// maxMisses bounds the datagrams of a burst for which all windows are tried,
// so that forged ones cost little more than others.
const maxMisses = 2

// openOne opens one datagram behind what rx.out holds; end is -1 where it is
// not genuine or not fresh.
func (s *Session) openOne(rx *Rx, key *receiving, d *sealed) {
	d.begin, d.end = len(rx.out), -1
	if !d.fresh {
		s.counts.drop(dropReplayed, 1)
		return
	}
	out, err := key.opener.Open(rx.out, d.datagram, d.head.Flow, d.counter)
	if err != nil && rx.misses < maxMisses {
		for _, w := range windows {
			counter := d.counter + uint64(w<<proto.CounterBits)
			if counter > proto.MaxCounter {
				continue
			}
			if out, err = key.opener.Open(rx.out, d.datagram, d.head.Flow, counter); err == nil {
				d.counter = counter
				break
			}
		}
		if err != nil {
			rx.misses++
		}
	}
	if err != nil {
		s.counts.drop(dropBadSeal, 1)
		return
	}
	rx.out = out
	d.end = len(out)
}

// deliver hands on runs of datagrams of one flow that lie end to end, as
// bursts.
func (s *Session) deliver(rx *Rx, in []sealed) {
	if s.seen.touch(&s.seen.received, s.cfg.Timers.Active) {
		s.poke()
	}
	for i := 0; i < len(in); {
		first := &in[i]
		i++
		if first.end < 0 {
			continue
		}
		if first.head.Flow == proto.ControlFlow {
			s.control(rx.out[first.begin:first.end])
			continue
		}
		size, end, n := first.end-first.begin, first.end, 1
		for i < len(in) && in[i].head.Flow == first.head.Flow && in[i].begin == end && size > 0 &&
			end-first.begin == n*size && in[i].end > end && in[i].end-end <= size {
			end = in[i].end
			n++
			i++
		}
		s.counts.received(n, end-first.begin)
		s.cfg.Handler.Deliver(first.head.Flow, dgram.Burst{Buf: rx.out[first.begin:end], Size: size})
	}
}

// control handles what came on flow 0.
func (s *Session) control(b []byte) {
	if len(b) == 0 {
		s.counts.drop(dropBadFrame, 1)
		return
	}
	if b[0] == proto.FramePart {
		s.receivePart(b)
		return
	}
	s.receiveFrame(b)
}

// receivePart takes a piece of what was larger than the path: a datagram of a
// flow, or a frame.
func (s *Session) receivePart(b []byte) {
	p, err := proto.ParsePart(b)
	if err != nil {
		s.counts.drop(dropBadPart, 1)
		return
	}
	whole, ok := s.join.Accept(time.Now(), p)
	if !ok {
		s.counts.drop(dropBadPart, 1)
	}
	switch {
	case whole == nil:
	case p.Flow == proto.ControlFlow:
		s.receiveFrame(whole)
	default:
		s.counts.received(1, len(whole))
		s.cfg.Handler.Deliver(p.Flow, dgram.One(netip.AddrPort{}, whole))
	}
}

func (s *Session) receiveFrame(b []byte) {
	var f proto.Frame
	if len(b) == 0 || b[0] != proto.FrameControl || proto.Unmarshal(b[1:], &f) != nil {
		s.counts.drop(dropBadFrame, 1)
		return
	}
	switch m := f.Body.(type) {
	case nil:
	case *proto.Frame_Rekey:
		s.answerRekey(m.Rekey)
	case *proto.Frame_Rekeyed:
		s.finishRekey(m.Rekeyed)
	default:
		s.cfg.Handler.Frame(&f)
	}
}

// receiveRaw tells probes from payload on the 5-tuple of a raw flow. What
// does not carry our token, or is not sealed, is payload: none is ever eaten.
// Payload counts only from an address where the peer answered a probe.
func (s *Session) receiveRaw(p path.Path, k path.Kind, b dgram.Burst) (proven bool) {
	payload := b
	for i, d := range indexed(b) {
		if !s.isProbe(d) {
			continue
		}
		if !s.receiveProbe(p, k, d) {
			continue
		}
		proven = true
		// Deliver what lies before it and go on behind it.
		if before := i*b.Size - (len(b.Buf) - len(payload.Buf)); before > 0 {
			s.deliverRaw(p, dgram.Burst{Buf: payload.Buf[:before], Size: b.Size})
		}
		payload.Buf = b.Buf[min((i+1)*b.Size, len(b.Buf)):]
		if len(payload.Buf) == 0 {
			return proven
		}
	}
	s.deliverRaw(p, payload)
	return proven
}

func indexed(b dgram.Burst) func(func(int, []byte) bool) {
	return func(yield func(int, []byte) bool) {
		i := 0
		for d := range b.All() {
			if !yield(i, d) {
				return
			}
			i++
		}
	}
}

func (s *Session) isProbe(d []byte) bool {
	if len(d) < proto.ProbeSize {
		return false
	}
	h, err := proto.ParseProbeHeader(d)
	return err == nil && h.Token == s.cfg.Probe.Local
}

func (s *Session) deliverRaw(p path.Path, b dgram.Burst) {
	if !s.heardRaw(p, b.Len()) {
		s.counts.drop(dropUnproven, b.Len())
		return
	}
	if s.seen.touch(&s.seen.received, s.cfg.Timers.Active) {
		s.poke()
	}
	s.counts.received(b.Len(), len(b.Buf))
	b.Size = min(b.Size, len(b.Buf))
	s.cfg.Handler.Deliver(proto.ControlFlow, b)
}
