package faketcp

import (
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// state of a flow, in the words of RFC 9293 section 3.3.2.
type state uint8

const (
	closed      state = iota // nothing sent yet
	synSent                  // ours is under way, and may meet the peer's
	synReceived              // the peer's has come too, and we have answered it
	established
)

// flow is what is remembered of one remote address: some 300 bytes whatever the
// round trip and the rate, as no datagram is kept after it was sent or while
// one before it is missing. Times are since the Conn began.
type flow struct {
	local  netip.AddrPort // where the peer's last segment came to; zero before
	remote netip.AddrPort

	iss, nxt uint32 // our SYN's number; the next datagram's
	irs, rcv uint32 // the peer's SYN's; one behind the highest byte that came, whatever is missing below
	state    state
	opener   bool  // we sent a SYN, or would have
	knows    bool  // irs is known: its SYN came
	heard    bool  // an ACK came since the last SYN/ACK: the peer, and all trackers, know that we are established
	answered bool  // our SYN/ACK left: the peer's SYN has passed our NAT
	crossed  bool  // both sides sent a SYN/ACK, or RSTs are about, and the peer's ACK is not here yet: data waits
	saw      uint8 // what the peer's SYN looked like, if knows
	far      uint8 // runs in a row that are far from rcv
	owed     uint8 // segments since our last ACK, up to ackEvery

	mss uint16 // in the peer's SYN
	hs  handshake

	lastIn, lastOut time.Duration // anything genuine; datagrams
	lastAck, upAt   time.Duration // our last ACK; established
	endAt           time.Duration // last RST or FIN, 0 none
	handshakeRTT    time.Duration // from the first SYN to its SYN/ACK: never less than the true one
	offered         uint32        // irs of a SYN that would begin the flow anew

	packed packing
	held   *held
}

// handshake is what an Open drives.
type handshake struct {
	waiters int
	rtt     time.Duration // the caller's estimate, 0 unknown
	began   time.Duration
	next    time.Duration // when a segment is due
	first   time.Duration // when the first one of all left
	last    time.Duration // when the last one did
	sent    int
	refused int
	held    bool          // RSTs were so many that the pace was lowered
	changed chan struct{} // closed when something happened; nil while nobody waits
}

// The numbers of the flow table.
const (
	// ackEvery: a bare ACK at least this often keeps a connection tracker's
	// window moving in one-way traffic (NAT.md: 64 segments).
	ackEvery = 64
	// ackAfter, looked at every tick: at least one a second.
	ackAfter = 500 * time.Millisecond
	// crossedFor bounds the wait for the ACK that ends a handshake in which both
	// sides sent a SYN/ACK, or a router RSTs; or two round trips.
	crossedFor = 250 * time.Millisecond
	// silence without an answer to ours is what makes a RST or FIN credible,
	// and a new SYN worth sending.
	silence = 3 * time.Second
	// lostAfter: an established flow that is silent for this long, ours being
	// unanswered, and was sent a RST or FIN, is over.
	lostAfter = 10 * time.Second
	// idleAfter is twice the longest interval of any keepalive in use.
	idleAfter = 10 * time.Minute
	// primeLives: a flow that nobody opens, and that was never established.
	primeLives = 60 * time.Second
	// anew: an established flow that brought something this recently needs no
	// proof that it lives.
	anew = 30 * time.Second
	// window in bytes, 0xFE00 << 14, about: nothing genuine is further below.
	window = 1 << 30
	// leap is how far above what was seen a run may be, in bytes, and leaps how
	// many in a row that are further are believed.
	leap  = 4 << 20
	leaps = 4
)

// after says whether sequence number a is behind b.
func after(a, b uint32) bool { return int32(a-b) > 0 }

// segment is the header of the next segment without payload.
func (f *flow) segment(flags uint8, window uint16) segment {
	return segment{local: f.local, remote: f.remote, seq: f.nxt, ack: f.rcv, flags: flags, window: window}
}

// take notes a run that came: n bytes in k segments from seq on.
func (f *flow) take(now time.Duration, seq uint32, n, k int, counts *Counts) {
	f.lastIn = now
	if n == 0 {
		return
	}
	f.owed = uint8(min(int(f.owed)+k, ackEvery))
	end := seq + uint32(n)
	d := int32(end - f.rcv)
	if d > leap || d < -window {
		// After a blackout at full speed, or behind a box that began anew with
		// another shift, the next ones are as far. One stray or forged segment
		// must not move what we acknowledge: a tracker takes for INVALID whoever
		// acknowledges what was not sent.
		counts.Far++
		if f.far++; f.far < leaps {
			return
		}
		f.rcv = end
	}
	f.far = 0
	if after(end, f.rcv) {
		f.rcv = end
	}
}

// unanswered says that the flow has been silent for d, though something was
// sent since it last spoke.
func (f *flow) unanswered(now, d time.Duration) bool {
	return f.lastOut > f.lastIn && now-f.lastIn >= d
}

// lives says whether an Open need not ask the peer: it has spoken lately, and
// nothing is missing.
func (f *flow) lives(now time.Duration) bool {
	return f.state == established && !f.crossed && now-f.lastIn < anew && !f.unanswered(now, silence)
}

// wake tells the Opens that wait.
func (f *flow) wake() {
	if f.hs.changed != nil {
		close(f.hs.changed)
		f.hs.changed = nil
	}
}

// held are datagrams that wait for the end of a handshake.
type held struct {
	since   time.Duration
	bytes   int
	bursts  []dgram.Burst
	leaving bool // somebody is sending them
}

// Bounds of what is held for a flow: a first flight of any protocol. What is
// older than 5 s has been repeated by whoever sent it.
const (
	heldBursts = 16
	heldBytes  = 24 << 10
	heldFor    = 5 * time.Second
)

// hold keeps a copy of b, the oldest making room; lost is how many datagrams
// that cost.
func (h *held) hold(b dgram.Burst) (lost int) {
	if len(b.Buf) > heldBytes {
		return b.Len()
	}
	for len(h.bursts) > 0 && (len(h.bursts) >= heldBursts || h.bytes+len(b.Buf) > heldBytes) {
		lost += h.bursts[0].Len()
		h.bytes -= len(h.bursts[0].Buf)
		h.bursts = h.bursts[1:]
	}
	b.Buf = append([]byte(nil), b.Buf...)
	h.bursts = append(h.bursts, b)
	h.bytes += len(b.Buf)
	return lost
}

func (h *held) len() (n int) {
	if h == nil {
		return 0
	}
	for _, b := range h.bursts {
		n += b.Len()
	}
	return n
}
