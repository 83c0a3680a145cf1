package natlab

import (
	"syscall"
	"time"
)

// Sizes of a connection's buffers, in bytes.
const (
	// receiveMost waits to be read before the peer must stop.
	receiveMost = 2 << 20
	// instantMost may be unsent whatever Options.SendBuffer is.
	instantMost = 4 << 20
	// flightMost is the largest congestion window.
	flightMost = 4 << 20
	// mssLocal is the loopback's.
	mssLocal = 65483
)

// rtoLeast is Linux's TCP_RTO_MIN; rtoMost is RFC 6298's least upper bound.
const (
	rtoLeast = 200 * time.Millisecond
	rtoMost  = 60 * time.Second
)

// intake is the receiving half.
type intake struct {
	next  uint64 // what should come
	ready []byte
	// visible is how much of ready may be read: up to a PSH. A reader that got
	// half of a message, and holds a mutex until the other half comes (yamux
	// does), would stop virtual time where somebody waits for that mutex.
	visible int
	ahead   map[uint64]*parcel // came before what is missing
	held    int                // bytes of those
	end     bool               // the peer's FIN, all before it having come
	shut    bool               // the window that the peer knows is closed
}

func (in *intake) window() int { return max(0, receiveMost-len(in.ready)-in.held) }

// take sorts a segment in and acknowledges it.
func (s *tcpConn) take(p *parcel) {
	in := &s.in
	if p.tcp.seq > in.next && in.ahead[p.tcp.seq] == nil && in.window() >= len(p.buf) {
		if in.ahead == nil {
			in.ahead = map[uint64]*parcel{}
		}
		in.ahead[p.tcp.seq] = p
		in.held += len(p.buf)
	}
	got := p.tcp.seq
	if got == in.next && in.window() >= len(p.buf) {
		in.append(p)
		for q := in.ahead[in.next]; q != nil; q = in.ahead[in.next] {
			delete(in.ahead, in.next)
			in.held -= len(q.buf)
			in.append(q)
		}
		s.change.Broadcast()
	}
	if got >= in.next && in.ahead[got] == nil {
		got = 0 // there was no room for it
	}
	in.shut = in.window() < receiveMost/4
	s.transmit(TCPAck, s.out.sentTo(), got)
}

func (in *intake) append(p *parcel) {
	in.ready = append(in.ready, p.buf...)
	in.next += uint64(len(p.buf))
	if p.tcp.TCP == TCPFin {
		in.next++
		in.end = true
	}
	if p.tcp.push || in.end || in.window() < receiveMost/4 {
		in.visible = len(in.ready)
	}
}

// reopen tells the peer that there is room again.
func (s *tcpConn) reopen() {
	if s.in.shut && s.state == tcpEstablished && s.in.window() > receiveMost/2 {
		s.in.shut = false
		s.transmit(TCPAck, s.out.sentTo(), 0)
	}
}

// outlet is the sending half: segments until they are acknowledged, each sent
// again when its time is up or three later ones have arrived.
type outlet struct {
	next     uint64 // number of the next byte that is written
	segments []*outSegment
	edge     uint64 // the peer takes what is below
	mss      int
	unsent   int // bytes
	flight   int // bytes sent and not acknowledged
	finished bool
	planned  bool // a pump, when all of this instant has been written
	rtt, rto time.Duration
	pace     congestion
	armed    time.Time
}

// congestion is the window of RFC 5681, in bytes.
type congestion struct {
	window, threshold int
	last              time.Time // the last loss that it took notice of
}

type outSegment struct {
	seq         uint64
	buf         []byte
	fin, done   bool
	push        bool
	tries       int
	first, sent time.Time
	passed      int // later ones that have arrived since it was sent
}

func (g *outSegment) end() uint64 {
	if g.fin {
		return g.seq + 1
	}
	return g.seq + uint64(len(g.buf))
}

func (o *outlet) init(first uint64) {
	o.next, o.mss, o.rto = first, 536, synFirst
	o.pace = congestion{threshold: flightMost}
}

func (o *outlet) empty() bool { return len(o.segments) == 0 }

func (o *outlet) forget() { o.segments, o.unsent, o.flight = nil, 0, 0 }

// sentTo is the number behind the last byte sent.
func (o *outlet) sentTo() uint64 {
	for i := len(o.segments) - 1; i >= 0; i-- {
		if o.segments[i].tries > 0 {
			return o.segments[i].end()
		}
	}
	if len(o.segments) > 0 {
		return o.segments[0].seq
	}
	return o.next
}

// add cuts b into segments; the last unsent one is filled first.
func (o *outlet) add(b []byte) {
	o.unsent += len(b)
	for len(b) > 0 {
		var g *outSegment
		if n := len(o.segments); n > 0 && o.segments[n-1].tries == 0 && !o.segments[n-1].push && len(o.segments[n-1].buf) < o.mss {
			g = o.segments[n-1]
		} else {
			g = &outSegment{seq: o.next}
			o.segments = append(o.segments, g)
		}
		k := min(len(b), o.mss-len(g.buf))
		g.buf = append(g.buf, b[:k]...)
		o.next += uint64(k)
		b = b[k:]
	}
}

// finish puts a FIN behind what was written.
func (s *tcpConn) finish() {
	o := &s.out
	if o.finished {
		return
	}
	o.finished = true
	o.segments = append(o.segments, &outSegment{seq: o.next, fin: true})
	o.next++
	s.soon()
}

// room is how many bytes a Write may add. The limit counts between instants
// only: a message of several Writes that stopped half-way would be read in
// halves.
func (s *tcpConn) room() int {
	if !s.out.planned && s.out.unsent >= s.host.lab.options.SendBuffer {
		return 0
	}
	return instantMost - s.out.unsent
}

// soon sends what was written once all of this instant has been written: in
// virtual time a nanosecond passes only when everybody waits.
func (s *tcpConn) soon() {
	o := &s.out
	if o.planned {
		return
	}
	o.planned = true
	s.host.lab.agenda.plan(time.Now().Add(1), func() {
		o.planned = false
		if n := len(o.segments); n > 0 {
			o.segments[n-1].push = true
		}
		s.pump()
	})
}

// sample learns from a round trip (RFC 6298, without its variance: at least
// two round trips).
func (o *outlet) sample(rtt time.Duration) {
	if o.rtt == 0 {
		o.rtt = rtt
	} else {
		o.rtt += (rtt - o.rtt) / 8
	}
	o.rto = min(max(rtoLeast, 2*o.rtt), rtoMost)
}

// pump sends what the windows let out.
func (s *tcpConn) pump() {
	if s.state != tcpEstablished {
		return
	}
	o, now := &s.out, time.Now()
	if o.pace.window == 0 {
		o.pace.window = 10 * o.mss // RFC 6928
	}
	for _, g := range o.segments {
		if o.planned {
			break // its PSH is still to be set
		}
		if g.tries > 0 {
			continue
		}
		if o.flight > 0 && (o.flight+len(g.buf) > o.pace.window || g.end() > o.edge) {
			break
		}
		if o.flight == 0 && g.end() > o.edge && len(g.buf) > 0 && !s.probes(now, g) {
			break
		}
		o.unsent -= len(g.buf)
		o.flight += len(g.buf)
		s.emit(now, g)
	}
	if o.unsent < s.host.lab.options.SendBuffer {
		s.change.Broadcast()
	}
	s.arm()
}

// probes says whether the first segment beyond the peer's window may leave all
// the same: now and then, lest the news of its opening was lost.
func (s *tcpConn) probes(now time.Time, g *outSegment) bool {
	if g.first.IsZero() {
		g.first = now
		s.wakeAt(now.Add(s.out.rto))
		return false
	}
	return now.Sub(g.first) >= s.out.rto
}

func (s *tcpConn) emit(now time.Time, g *outSegment) {
	if g.tries++; g.tries == 1 {
		g.first = now
	}
	g.sent, g.passed = now, 0
	k := TCPData
	if g.fin {
		k = TCPFin
	}
	s.send(g.buf[:len(g.buf):len(g.buf)], header{Label: Label{TCP: k}, seq: g.seq, push: g.push})
}

// arm plans a look at the segment whose time is up first.
func (s *tcpConn) arm() {
	o := &s.out
	var first time.Time
	for _, g := range o.segments {
		if g.tries > 0 && !g.done && (first.IsZero() || g.sent.Before(first)) {
			first = g.sent
		}
	}
	if first.IsZero() {
		return
	}
	at := first.Add(o.rto)
	if o.armed.After(time.Now()) && !at.Before(o.armed) {
		return
	}
	o.armed = at
	s.wakeAt(at)
}

// acknowledged takes what an acknowledgment says.
func (s *tcpConn) acknowledged(now time.Time, h *header) {
	o := &s.out
	o.edge = max(o.edge, h.ack+uint64(h.window))
	var newest time.Time // when the newest of those that arrived was sent
	for _, g := range o.segments {
		if g.tries == 0 || g.done || g.end() > h.ack && (h.got == 0 || g.seq != h.got) {
			continue
		}
		g.done = true
		o.flight -= len(g.buf)
		o.pace.grow(len(g.buf), o.mss)
		if g.tries == 1 {
			o.sample(now.Sub(g.sent))
		}
		newest = later(newest, g.sent)
	}
	for len(o.segments) > 0 && o.segments[0].done {
		o.segments = o.segments[1:]
	}
	if !newest.IsZero() {
		s.missing(now, newest)
	}
	s.pump()
}

// missing counts for each segment those sent after it that have arrived; the
// third makes it lost (RFC 6675).
func (s *tcpConn) missing(now, newest time.Time) {
	reached := s.sentLast(newest)
	for _, g := range s.out.segments {
		if g.done || g.tries == 0 || g.sent.After(newest) || g.seq >= reached && !g.sent.Before(newest) {
			continue
		}
		if g.passed++; g.passed >= 3 {
			s.lost(now)
			s.emit(now, g)
		}
	}
}

// sentLast is the highest number among what has arrived of that instant.
func (s *tcpConn) sentLast(at time.Time) (seq uint64) {
	for _, g := range s.out.segments {
		if g.done && g.sent.Equal(at) {
			seq = max(seq, g.seq)
		}
	}
	return seq
}

// retransmit sends again what nobody has acknowledged in time.
func (s *tcpConn) retransmit(now time.Time) {
	o, again := &s.out, false
	for _, g := range o.segments {
		if g.tries == 0 || g.done || now.Before(g.sent.Add(o.rto)) {
			continue
		}
		if now.Sub(g.first) >= UserTimeout {
			s.die(syscall.ETIMEDOUT)
			return
		}
		s.lost(now)
		s.emit(now, g)
		again = true
	}
	if again {
		o.rto = min(2*o.rto, rtoMost)
	}
	s.pump()
}

// lost halves the window, once a round trip.
func (s *tcpConn) lost(now time.Time) {
	o := &s.out
	if now.Sub(o.pace.last) < o.rtt {
		return
	}
	o.pace.last = now
	o.pace.threshold = max(o.pace.window/2, 2*o.mss)
	o.pace.window = o.pace.threshold
}

// grow is slow start, then congestion avoidance.
func (c *congestion) grow(acked, mss int) {
	if c.window < c.threshold {
		c.window += acked
	} else {
		c.window += mss * acked / max(c.window, 1)
	}
	c.window = min(c.window, flightMost)
}
