package natlab

import (
	"net"
	"syscall"
	"time"
)

// tcpState of a connection, as far as anybody sees a difference.
type tcpState uint8

const (
	tcpClosed tcpState = iota
	tcpSynSent
	tcpSynReceived
	tcpEstablished
)

// tcpHandshake is what a connection knows of its beginning.
type tcpHandshake struct {
	iss, irs uint64
	knows    bool // irs
	tries    int
	due      time.Time // the next SYN or SYN/ACK
	sent     time.Time
}

// The kernel's patience.
const (
	synFirst = time.Second // before the first repetition; then twice as long each time (RFC 6298, RFC 8961)
	synTries = 7           // net.ipv4.tcp_syn_retries and the first
	// UserTimeout ends a connection whose data nobody acknowledges; our
	// programs set TCP_USER_TIMEOUT to it.
	UserTimeout = 30 * time.Second
	// finWait is how long a closed connection waits for the peer's FIN
	// (net.ipv4.tcp_fin_timeout).
	finWait = 60 * time.Second
)

// transmit sends a segment of that kind without payload.
func (s *tcpConn) transmit(k TCPKind, seq, got uint64) {
	s.send(nil, header{Label: Label{TCP: k}, seq: seq, got: got})
}

// send sends a segment with what it acknowledges.
func (s *tcpConn) send(buf []byte, t header) {
	h := s.host
	if _, err := h.source(s.local.Addr(), s.remote.Addr()); err != nil {
		return // its address is gone: as if lost
	}
	p := &parcel{from: s.local, to: s.remote, buf: buf, size: len(buf), ttl: DefaultTTL, last: h.name, tcp: &t}
	t.ack, t.window = s.in.next, s.in.window()
	if k := t.TCP; k == TCPSyn || k == TCPSynAck {
		p.mss = h.attachment.link.mtu - p.headers()
		if h.isLocal(s.remote.Addr()) {
			p.mss = mssLocal
		}
	}
	h.lab.number(p, h.name)
	h.dispatch(p)
}

// handshake sends the segment that the state wants, and plans the next.
func (s *tcpConn) handshake(now time.Time) {
	if s.hs.tries++; s.hs.tries > synTries {
		s.die(syscall.ETIMEDOUT)
		return
	}
	k := TCPSyn
	if s.state == tcpSynReceived {
		k = TCPSynAck
	}
	s.hs.sent = now
	s.hs.due = now.Add(synFirst << (s.hs.tries - 1))
	s.wakeAt(s.hs.due)
	s.transmit(k, s.hs.iss, 0)
}

// wakeAt plans a look at what is due.
func (s *tcpConn) wakeAt(at time.Time) {
	s.host.lab.agenda.plan(at, func() { s.tick(time.Now()) })
}

func (s *tcpConn) tick(now time.Time) {
	switch s.state {
	case tcpSynSent, tcpSynReceived:
		if !now.Before(s.hs.due) {
			s.handshake(now)
		}
	case tcpEstablished:
		s.retransmit(now)
	}
}

// receive takes a segment of this connection.
func (s *tcpConn) receive(p *parcel) {
	h := s.host
	switch k := p.tcp; {
	case k.TCP == TCPReset:
		s.reset(p)
		return
	case k.TCP == TCPSyn:
		s.syn(p)
	case s.state == tcpSynSent && k.TCP == TCPSynAck && k.ack == s.hs.iss+1:
		s.learn(p)
		s.establish(time.Now())
		s.transmit(TCPAck, s.out.sentTo(), 0)
	case s.state == tcpSynSent: // an ACK of what was never sent
		h.lab.dropped(p, h.name, DropInvalid)
		rst := p.answer(h.name)
		h.lab.number(rst, h.name)
		h.dispatch(rst)
		return
	case s.state == tcpSynReceived && k.ack < s.hs.iss+1, s.state == tcpClosed:
		h.lab.dropped(p, h.name, DropInvalid)
		return
	default:
		s.carryOn(p)
		return
	}
	h.lab.delivered(p, h.name)
}

// carryOn takes a segment behind the handshake.
func (s *tcpConn) carryOn(p *parcel) {
	now := time.Now()
	if s.state == tcpSynReceived {
		s.establish(now)
	}
	if s.closed && p.tcp.TCP == TCPData { // nobody will read it
		s.host.lab.dropped(p, s.host.name, DropReset)
		s.abort(net.ErrClosed)
		return
	}
	s.host.lab.delivered(p, s.host.name)
	if p.tcp.TCP == TCPSynAck {
		s.transmit(TCPAck, s.out.sentTo(), 0)
	}
	s.acknowledged(now, p.tcp)
	if s.state == tcpEstablished && (p.tcp.TCP == TCPData || p.tcp.TCP == TCPFin) {
		s.take(p)
	}
	s.tidy()
}

// syn is a SYN of the peer: the first of a new connection, one that crosses
// ours, or one that repeats or comes too late.
func (s *tcpConn) syn(p *parcel) {
	switch {
	case s.state == tcpEstablished:
		s.transmit(TCPAck, s.out.sentTo(), 0) // a challenge (RFC 5961 section 4)
		return
	case s.hs.knows && p.tcp.seq != s.hs.irs && s.parent == nil:
		s.transmit(TCPAck, s.hs.iss+1, 0)
		return
	}
	s.learn(p)
	s.state = tcpSynReceived
	s.hs.tries = 0
	s.handshake(time.Now())
}

// learn notes what the peer's SYN or SYN/ACK says.
func (s *tcpConn) learn(p *parcel) {
	s.hs.irs, s.hs.knows = p.tcp.seq, true
	s.in.next = p.tcp.seq + 1
	s.out.mss = min(p.mss, s.host.attachment.link.mtu-p.headers())
	if s.host.isLocal(p.from.Addr()) {
		s.out.mss = p.mss
	}
	s.out.edge = s.out.next + uint64(max(p.tcp.window, s.out.mss))
}

func (s *tcpConn) establish(now time.Time) {
	s.state = tcpEstablished
	s.out.sample(now.Sub(s.hs.sent))
	close(s.up)
	if s.parent != nil {
		l := s.parent
		s.parent = nil
		l.accepted(s)
	}
	if s.state == tcpEstablished {
		s.pump()
	}
}

// reset takes an RST that is credible (RFC 9293 section 3.10.7.3, RFC 5961
// section 3): of one that answers a SYN, once the peer's own SYN has come,
// there is nothing to believe.
func (s *tcpConn) reset(p *parcel) {
	h := s.host
	switch {
	case s.state == tcpSynSent && p.tcp.ack == s.hs.iss+1:
		h.lab.delivered(p, h.name)
		s.die(syscall.ECONNREFUSED)
	case s.state != tcpSynSent && p.tcp.seq == s.in.next:
		h.lab.delivered(p, h.name)
		s.die(syscall.ECONNRESET)
	default:
		h.lab.dropped(p, h.name, DropInvalid)
	}
}

// abort ends the connection by an RST.
func (s *tcpConn) abort(why error) {
	if s.state == tcpSynReceived || s.state == tcpEstablished {
		s.transmit(TCPReset, s.out.sentTo(), 0)
	}
	s.die(why)
}

// die ends the connection without a word.
func (s *tcpConn) die(why error) {
	if s.why != nil {
		return
	}
	if s.state != tcpEstablished {
		close(s.up)
	}
	s.why, s.state = why, tcpClosed
	s.out.forget()
	if k := (pair{s.local, s.remote}); s.host.tcp.streams[k] == s {
		delete(s.host.tcp.streams, k)
		s.host.tcp.drop(s.local)
	}
	s.change.Broadcast()
}

// tidy forgets a closed connection once both sides have ended it, or the peer
// has had its time.
func (s *tcpConn) tidy() {
	if !s.closed || s.state != tcpEstablished || !s.out.empty() {
		return
	}
	if s.in.end {
		s.die(net.ErrClosed)
		return
	}
	s.host.lab.agenda.plan(time.Now().Add(finWait), func() { s.die(net.ErrClosed) })
}
