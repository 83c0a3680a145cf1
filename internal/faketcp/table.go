package faketcp

import (
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// table is the state of all flows of a Conn. Its methods take the time, change
// the state and put what is to be sent into out; they send nothing themselves,
// and nothing is locked in here.
//
// The segments are those that were tried against Linux' connection tracking
// and boxes that check numbers:
//
//	closed       Open: SYN(iss), repeated with the same number
//	synSent      SYN: SYN/ACK(iss, irs+1)      SYN/ACK: ACK(iss+1, irs+1), established
//	synReceived  repeats SYN/ACK               an ACK of iss+1: established
//	             SYN/ACK: ACK(iss+1, irs+1), established, but data waits for the peer's ACK
//	(stranger)   SYN: SYN/ACK(cookie), nothing kept     ACK of cookie+1: established
//	established  data with ACK = highest byte that came; a repeated SYN or SYN/ACK gets the same answer again
//
// A tracker that saw two SYNs wants a SYN/ACK of one side before anything
// else; so nothing but these leaves before a flow is established. Linux' does
// not look into a second SYN/ACK, so it knows of no window of the peer's before
// its ACK: until then, all data but the first segment would be INVALID. And the
// windows in SYNs are not scaled: each end of a handshake is answered by an ACK,
// or 64 KiB would be all that may leave before the peer has something to say.
// No RST ever leaves: it would delete the mapping in the NAT that it reaches.
type table struct {
	flows   map[netip.AddrPort]*flow
	perAddr map[netip.Addr]*address
	opts    Options
	window  uint16
	options []byte // of a SYN
	cookies cookies
	limit   bucket // of answers to strangers
	again   bucket // of SYNs that follow a RST
	counts  Counts
	out     []outgoing
	owing   []*flow // flows whose ACK is due after this visit
}

// outgoing is a segment to be sent, perhaps with one short datagram.
type outgoing struct {
	segment
	flow *flow // whose held datagrams may follow; nil: none
	body []byte
}

// mostAgain bounds the SYNs that RSTs can draw from one port at once, over all
// addresses: twice what one address may draw (path.RefusalsAtOnce), as a peer
// has candidates of two families; then 125 a second. So who names a victim's
// address gets no flood.
const mostAgain = 2 * path.RefusalsAtOnce

// mostAnswers bounds what one visit to the kernel can make us send.
const mostAnswers = 256

func newTable(o Options, port uint16) *table {
	o = o.withDefaults()
	return &table{
		flows: make(map[netip.AddrPort]*flow), perAddr: make(map[netip.Addr]*address),
		opts: o, window: o.window(), options: synOptions(o.MSS),
		cookies: newCookies(port), limit: bucket{rate: 5000, burst: 1000, level: 1000},
		again: bucket{rate: 125, burst: mostAgain, level: mostAgain},
	}
}

// bucket bounds a rate.
type bucket struct {
	rate, burst, level float64
	at                 time.Duration
}

func (b *bucket) take(now time.Duration) bool {
	b.level = min(b.burst, b.level+b.rate*(now-b.at).Seconds())
	b.at = now
	if b.level < 1 {
		return false
	}
	b.level--
	return true
}

func (t *table) send(s segment) {
	if len(t.out) >= mostAnswers {
		t.counts.Crowded++
		return
	}
	t.out = append(t.out, outgoing{segment: s})
}

// receive takes one run: its first segment's header, n bytes in k segments. It
// returns the flow if those bytes are datagrams to be read, else nil.
func (t *table) receive(now time.Duration, s *segment, n, k int) *flow {
	f := t.flows[s.remote]
	switch s.flags & (flagSYN | flagRST | flagFIN | flagACK) {
	case flagRST, flagRST | flagACK:
		t.reset(now, f)
	case flagFIN, flagFIN | flagACK:
		t.counts.Fin++
		if f != nil && f.state == established {
			f.endAt = now
		}
	case flagSYN:
		t.syn(now, f, s)
	case flagSYN | flagACK:
		t.synACK(now, f, s)
	case flagACK:
		return t.data(now, f, s, n, k)
	default:
		t.counts.Malformed++
	}
	return nil
}

// look notes what the peer's SYN or SYN/ACK looked like when it came.
func (f *flow) look(s *segment) {
	var whole bool
	f.local, f.irs, f.rcv, f.knows = s.local, s.seq, s.seq+1, true
	whole, f.mss = readOptions(s.options)
	f.saw = seen(whole, s.window)
}

func seen(whole bool, window uint16) (saw uint8) {
	if whole {
		saw |= sawOptions
	}
	if window >= leastWindow && window <= mostWindow {
		saw |= sawWindow
	}
	return saw
}

func (t *table) syn(now time.Duration, f *flow, s *segment) {
	if f == nil {
		t.answerStranger(now, s)
		return
	}
	switch f.state {
	case closed, synSent, synReceived:
		f.look(s)
		f.state, f.lastIn = synReceived, now
		t.sendSYN(now, f, 0)
		f.wake()
	case established:
		if s.seq != f.irs {
			t.counts.Resyn++
			if now-f.lastIn < silence {
				return // forged, as the flow is well
			}
			f.offered = s.seq // the peer began anew; an ACK of our answer proves it
		} else {
			f.lastIn = now
			f.wake()
		}
		if now-f.hs.last < time.Millisecond {
			t.counts.Limited++
			return
		}
		f.hs.last = now
		t.send(segment{local: f.local, remote: f.remote, seq: f.iss, ack: s.seq + 1,
			flags: flagSYN | flagACK, window: t.window, options: t.options})
	}
}

// answerStranger keeps nothing. The answer has no options where the question
// has none: it must not be larger, and window scaling needs both (RFC 7323).
func (t *table) answerStranger(now time.Duration, s *segment) {
	if !t.limit.take(now) {
		t.counts.Limited++
		return
	}
	whole, _ := readOptions(s.options)
	a := segment{local: s.local, remote: s.remote, seq: t.cookies.mint(now, s.remote, seen(whole, s.window)), ack: s.seq + 1,
		flags: flagSYN | flagACK, window: t.window}
	if len(s.options) >= len(t.options) {
		a.options = t.options
	}
	t.send(a)
}

func (t *table) synACK(now time.Duration, f *flow, s *segment) {
	switch {
	case f == nil:
		t.counts.Stranger++
		return
	case f.state == closed || s.ack != f.iss+1:
		t.counts.BadAck++
		return
	case f.state != established:
		if f.handshakeRTT == 0 && !f.knows {
			f.handshakeRTT = now - f.hs.first
		}
		f.look(s)
		f.crossed = f.state == synReceived || f.hs.refused > 0
		t.establish(now, f)
	case s.seq != f.irs:
		t.counts.Resyn++
		if !f.unanswered(now, silence) {
			return
		}
		f.look(s) // it answers the SYN that our silence sent
		f.nxt = f.iss + 1
		f.lastIn = now
		f.wake()
	default:
		f.lastIn, f.heard = now, true
		f.wake()
		if now-f.hs.last < time.Millisecond {
			t.counts.Limited++
			return
		}
	}
	f.hs.last = now
	t.acknowledge(now, f)
	if !f.crossed {
		t.out[len(t.out)-1].flow = f
	}
}

// acknowledge sends a bare ACK.
func (t *table) acknowledge(now time.Duration, f *flow) {
	f.owed, f.lastAck = 0, now
	t.out = append(t.out, outgoing{segment: f.segment(flagACK, t.window)})
}

func (t *table) establish(now time.Duration, f *flow) {
	f.state, f.upAt, f.lastIn, f.lastAck, f.nxt, f.heard = established, now, now, now, f.iss+1, false
	if f.opener {
		t.counts.Opened++
	} else {
		t.counts.Accepted++
	}
	f.wake()
}

// reset: an RST is never believed at once. In answer to a SYN it says that the
// router before the peer does not know of the flow yet, and that the entry in
// ours is gone: the SYN goes again, with the same number.
func (t *table) reset(now time.Duration, f *flow) {
	switch {
	case f == nil:
		t.counts.Stranger++
	case f.state == established:
		t.counts.Reset++
		f.endAt = now
		t.giveUpPacked(f)
	default:
		t.counts.Refused++
		f.hs.refused++
		if f.state == synReceived {
			f.state = synSent // the tracker needs both SYNs again
		}
		if calm := t.calm(f); calm > 0 {
			t.counts.HeldBack++
			f.hs.held = true
			f.hs.next = now + calm
			f.wake() // the Open that waits looks when it is due
			return
		}
		if !t.again.take(now) {
			t.counts.Limited++
			return // the next one leaves by the usual pace
		}
		f.hs.next = max(now, f.hs.last+time.Millisecond)
		f.wake() // the Open that waits sends it
	}
}

// data takes a segment with ACK and nothing else, with or without payload.
func (t *table) data(now time.Duration, f *flow, s *segment, n, k int) *flow {
	if f == nil {
		if f = t.accept(now, s); f == nil {
			return nil
		}
		// The window of our SYN/ACK was not scaled, and a connection tracker lets
		// no more than twice that pass before it saw one that is: 131,070 bytes.
		f.owed = ackEvery
	}
	switch f.state {
	case closed, synSent:
		if !f.answered || s.ack != f.iss+1 {
			// Perhaps a RST took our entry from the NAT after the peer was done. The
			// NAT wants a SYN or SYN/ACK of the peer now, which sends one since it
			// misses our ACK (see revive).
			t.counts.Early++
			return nil
		}
		// A RST came between our SYN/ACK and its ACK. Linux' NAT has CLOSE now: it
		// lets no SYN of the peer's in any more, and each of ours, which the peer's
		// NAT answers by RST, renews that. But an ACK passes, both ways.
		f.crossed = true
		t.establish(now, f)
		t.acknowledge(now, f)
	case synReceived:
		if s.ack != f.iss+1 {
			t.counts.BadAck++
			return nil
		}
		t.establish(now, f)
		t.begin(now, f)
	case established:
		t.handshakeAgain(now, f, s, n)
	}
	f.offered, f.heard = 0, true
	f.local = s.local
	if s.flags&flagURG != 0 {
		n = 0 // its numbers are payload
	}
	f.take(now, s.seq, n, k, &t.counts)
	f.wake()
	if f.owed >= ackEvery && len(t.owing) < mostAnswers && (len(t.owing) == 0 || t.owing[len(t.owing)-1] != f) {
		t.owing = append(t.owing, f)
	}
	return f
}

// handshakeAgain sees whether a segment on an established flow has to do with a
// handshake: the peer's last ACK of a crossed one; its question for ours; its
// new beginning.
func (t *table) handshakeAgain(now time.Duration, f *flow, s *segment, n int) {
	switch {
	case f.crossed:
		t.begin(now, f)
	case n == 0 && f.knows && s.seq == f.irs && now-f.hs.last >= time.Millisecond:
		f.hs.last = now
		t.acknowledge(now, f)
	case f.offered != 0 && s.ack == f.iss+1 && f.nxt != f.iss+1 && now-f.hs.last < lostAfter:
		f.irs, f.rcv, f.nxt = f.offered, f.offered+1, f.iss+1
	}
}

// begin lets data leave.
func (t *table) begin(now time.Duration, f *flow) {
	f.crossed = false
	t.acknowledge(now, f)
	t.out[len(t.out)-1].flow = f
}

// accept makes a flow of a stranger that acknowledges the number that only it
// was told.
func (t *table) accept(now time.Duration, s *segment) *flow {
	iss := s.ack - 1
	if s.flags&flagURG != 0 || !t.cookies.check(now, s.remote, iss) {
		t.counts.Stranger++
		return nil
	}
	f := t.add(now, s.remote)
	if f == nil {
		return nil
	}
	f.local, f.iss, f.rcv, f.saw = s.local, iss, s.seq, uint8(iss)&sawMask
	f.irs = s.seq - 1 // unless its first segments were lost
	t.establish(now, f)
	t.acknowledge(now, f)
	return f
}

// settle puts what is due at the end of a visit into out.
func (t *table) settle(now time.Duration) {
	for _, f := range t.owing {
		if f.owed >= ackEvery {
			t.acknowledge(now, f)
		}
	}
	t.owing = t.owing[:0]
}

// write reserves b's sequence numbers: the header to send it with.
func (t *table) write(now time.Duration, f *flow, b dgram.Burst, s *segment) {
	*s = f.segment(flagPSH|flagACK, t.window)
	f.nxt += uint32(len(b.Buf))
	f.owed, f.lastAck, f.lastOut = 0, now, now
	t.counts.Sent += uint64(b.Len())
}
