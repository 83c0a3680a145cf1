package natlab

import (
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// fakePeer is one remote address.
type fakePeer struct {
	state   tcpState
	opens   int           // that wait
	changed chan struct{} // closed when something came; nil while nobody waits
	began   time.Time     // of the handshake
	sent    time.Time     // the last SYN
	spoke   time.Time     // what came last
	asked   time.Time     // the first datagram that left after that
	ended   time.Time     // an RST or FIN after what came last
	opener  bool          // we sent a SYN of our own
	owes    bool          // an acknowledgment
	held    []dgram.Burst
}

func (p *fakePeer) wake() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// lives says that the peer needs no handshake.
func (p *fakePeer) lives(now time.Time) bool {
	return p.state == tcpEstablished && now.Sub(p.spoke) < fakeFresh && !p.silent(now)
}

// silent says that nothing came though something was sent.
func (p *fakePeer) silent(now time.Time) bool { return p.unanswered(now, fakeSilence) }

func (p *fakePeer) unanswered(now time.Time, d time.Duration) bool {
	return p.asked.After(p.spoke) && now.Sub(p.spoke) >= d
}

// receive takes a segment of fake TCP, or an RST of anyone.
func (f *fakeConn) receive(q *parcel) {
	h, p, now := f.host, f.peers[q.from], time.Now()
	k := q.tcp.TCP
	if p == nil {
		if k != TCPSyn {
			h.lab.dropped(q, h.name, DropInvalid)
			return
		}
		p = &fakePeer{}
		f.peers[q.from] = p
	}
	if k == TCPReset {
		f.reset(q, p)
		return
	}
	if early := p.state == tcpClosed || p.state == tcpSynSent; early && k != TCPSyn && k != TCPSynAck {
		h.lab.dropped(q, h.name, DropInvalid)
		return
	}
	if k == TCPFin {
		h.lab.delivered(q, h.name)
		p.ended = now
		return
	}
	if p.spoke = now; k == TCPData {
		f.in.enqueue(q)
		f.owe(q.from, p)
	} else {
		h.lab.delivered(q, h.name)
	}
	switch {
	case k == TCPSyn && p.state == tcpEstablished:
		f.transmit(q.from, TCPSynAck)
	case k == TCPSyn:
		p.state = tcpSynReceived
		f.shake(q.from, p)
	case k == TCPSynAck:
		f.transmit(q.from, TCPAck)
		f.establish(q.from, p)
	default:
		f.establish(q.from, p)
	}
	p.wake()
}

// owe plans an acknowledgment, if nothing else leaves before.
func (f *fakeConn) owe(to netip.AddrPort, p *fakePeer) {
	if p.owes {
		return
	}
	p.owes = true
	f.host.lab.agenda.plan(time.Now().Add(fakeAck), func() {
		if p.owes && f.peers[to] == p && !f.in.closed {
			f.transmit(to, TCPAck)
		}
		p.owes = false
	})
}

// reset takes an RST. In answer to a SYN it says that the peer's router does
// not know of us yet, and that ours has forgotten: the SYN goes again at once.
// On an established flow it proves nothing.
func (f *fakeConn) reset(q *parcel, p *fakePeer) {
	h := f.host
	if p.state == tcpEstablished {
		h.lab.dropped(q, h.name, DropInvalid)
		p.ended = time.Now()
		return
	}
	h.lab.delivered(q, h.name)
	if p.opens == 0 {
		delete(f.peers, q.from)
		return
	}
	p.state = tcpSynSent
	h.lab.agenda.plan(later(time.Now(), p.sent.Add(time.Millisecond)), func() {
		if p.opens > 0 && p.state == tcpSynSent && f.peers[q.from] == p && !f.in.closed {
			f.shake(q.from, p)
		}
	})
}

// establish lets go what was held.
func (f *fakeConn) establish(to netip.AddrPort, p *fakePeer) {
	if p.state == tcpEstablished {
		return
	}
	p.state = tcpEstablished
	held := p.held
	p.held = nil
	for _, b := range held {
		_ = f.write(to, b) // as one that was lost
	}
}
