package faketcp

import (
	"net/netip"
	"time"
)

// The pace of a handshake: a lost SYN costs 20 ms while both sides may just be
// beginning (with 20 % loss 63 ms at most, where a kernel's second SYN comes
// after a second), then less and less. On a path with a long round trip all of
// it is longer: repeating faster than answers can come only fills the queue of
// the satellite.
var pace = [...]struct{ until, gap time.Duration }{
	{300 * time.Millisecond, 20 * time.Millisecond},
	{3 * time.Second, 100 * time.Millisecond},
	{1 << 62, 500 * time.Millisecond},
}

// shortTrip is the longest round trip for which pace holds as it is.
const shortTrip = 100 * time.Millisecond

// gap is how long to wait for the next segment of a handshake that began so
// long ago.
func (h *handshake) gap(now time.Duration) time.Duration {
	scale := max(1, float64(h.rtt)/float64(shortTrip))
	took := float64(now - h.began)
	for _, p := range pace {
		if took < scale*float64(p.until) {
			return min(time.Duration(scale*float64(p.gap)), max(h.rtt, p.gap))
		}
	}
	return pace[len(pace)-1].gap
}

// opening is the flow to open, made if there is none.
func (t *table) opening(now time.Duration, to netip.AddrPort, rtt time.Duration) (*flow, error) {
	f := t.flows[to]
	if f == nil {
		if f = t.add(now, to); f == nil {
			return nil, errFull
		}
		f.iss = t.cookies.mint(now, to, sawMask)
		f.nxt = f.iss
	}
	f.opener = true
	if f.hs.waiters == 0 {
		f.hs.began, f.hs.next, f.hs.sent, f.hs.refused, f.hs.held = now, now, 0, 0, false
		t.perAddr[to.Addr()].open(now)
	}
	f.hs.rtt = max(f.hs.rtt, rtt)
	return f, nil
}

// handshake sends what is due, and returns how long until something is again.
func (t *table) handshake(now time.Duration, f *flow) time.Duration {
	switch {
	case now < f.hs.next:
		return f.hs.next - now
	case !f.crossed:
		t.sendSYN(now, f, 0)
	case now-f.lastIn > max(crossedFor, 2*f.hs.rtt):
		t.begin(now, f)
	case f.hs.refused > 0 && f.hs.sent%2 == 0:
		t.sendSYN(now, f, 0) // for a NAT that a RST made forget, see data
	default:
		f.hs.sent++
		// As a keepalive of TCP: the number before the next, which draws an ACK
		// (RFC 9293 section 3.8.4).
		s := f.segment(flagACK, t.window)
		s.seq = f.iss
		t.send(s)
		f.hs.next = now + f.hs.gap(now)
	}
	return max(time.Millisecond, f.hs.next-now)
}

// sendSYN sends the segment of the handshake that the state wants: a SYN, or a
// SYN/ACK once the peer's SYN has come. A ttl of 0 is the usual one.
func (t *table) sendSYN(now time.Duration, f *flow, ttl uint8) {
	s := segment{local: f.local, remote: f.remote, seq: f.iss, flags: flagSYN, window: t.window, options: t.options, ttl: ttl}
	switch f.state {
	case synReceived:
		s.flags, s.ack = flagSYN|flagACK, f.irs+1
		f.answered = true
	case closed:
		f.state = synSent
	}
	if f.hs.first == 0 {
		f.hs.first = now
	}
	f.hs.last, f.hs.next = now, now+f.hs.gap(now)
	f.hs.sent++
	t.send(s)
}
