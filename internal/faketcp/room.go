package faketcp

import (
	"errors"
	"net/netip"
	"time"
)

// errFull: every flow of the table is in use.
var errFull = errors.New("too many flows on this port; close some, or raise MaxRemotes or PerPeer")

// inUse: a flow that spoke this recently is not forgotten for another's sake.
const inUse = 30 * time.Second

// sample is how many flows are looked at to find one to forget: under a storm
// of handshakes a look at all would be the attack.
const sample = 64

// add makes a flow, and room for it where needed; nil when all are in use.
func (t *table) add(now time.Duration, remote netip.AddrPort) *flow {
	ip := remote.Addr()
	a := t.perAddr[ip]
	if a == nil {
		a = &address{}
	}
	if a.flows >= t.opts.PerPeer {
		t.counts.PerPeer++
		return nil
	}
	if len(t.flows) >= t.opts.MaxRemotes && !t.makeRoom(now) {
		t.counts.Full++
		return nil
	}
	f := &flow{remote: remote, lastIn: now}
	t.flows[remote] = f
	a.flows++
	t.perAddr[ip] = a
	return f
}

// makeRoom forgets the flow that was idle longest, of a sample.
func (t *table) makeRoom(now time.Duration) bool {
	var idlest *flow
	n := 0
	for _, f := range t.flows {
		if f.hs.waiters == 0 && (idlest == nil || f.lastIn < idlest.lastIn) {
			idlest = f
		}
		if n++; n == sample {
			break
		}
	}
	if idlest == nil || now-idlest.lastIn < inUse {
		return false
	}
	t.forget(idlest)
	t.counts.Evicted++
	return true
}

func (t *table) forget(f *flow) {
	delete(t.flows, f.remote)
	ip := f.remote.Addr()
	a := t.perAddr[ip]
	if a.flows--; a.flows <= 0 {
		delete(t.perAddr, ip)
	}
	t.dropHeld(f)
	f.wake()
}

func (t *table) dropHeld(f *flow) {
	t.counts.Held += uint64(f.held.len())
	f.held = nil
}

// sweep looks after all flows, some times a second while there is traffic: ACKs
// of one-way traffic, SYNs for flows that went silent, and what is over. It
// returns when it wants to be called again, 0 for never.
func (t *table) sweep(now time.Duration) time.Duration {
	next := time.Duration(0)
	for _, f := range t.flows {
		if t.over(now, f) {
			t.forget(f)
			t.counts.Ended++
			continue
		}
		next = max(next, slowTick)
		if f.held != nil && now-f.held.since >= heldFor {
			t.dropHeld(f)
		}
		if f.state != established {
			continue
		}
		if f.owed > 0 && now-f.lastAck >= ackAfter {
			t.acknowledge(now, f)
		}
		t.revive(now, f)
		t.checkPacked(now, f)
	}
	for _, f := range t.flows {
		switch {
		case f.unheard(now), f.state == established && f.shaky(now):
			return unheardTick
		case now-max(f.lastIn, f.lastOut) < silence:
			next = fastTick
		}
	}
	return next
}

// The paces of sweep: at the end of a handshake, while anything was sent or
// received in the last seconds, and else.
const (
	unheardTick = 100 * time.Millisecond
	fastTick    = ackAfter
	slowTick    = 10 * time.Second
	shakyFor    = 150 * time.Millisecond
)

func (t *table) over(now time.Duration, f *flow) bool {
	quiet := now - max(f.lastIn, f.lastOut)
	switch {
	case f.hs.waiters > 0:
		return false
	case f.state != established:
		return now-max(f.lastIn, f.hs.last) >= primeLives
	case f.endAt > f.lastIn && f.unanswered(now, lostAfter):
		return true
	}
	return quiet >= idleAfter
}

// revive sends the SYN again, with its number, where data goes out and nothing
// comes back: a peer that lost its state (the coordinator was restarted)
// answers it, and so does one whose NAT lost its mapping. It does so early where
// nothing at all came behind the handshake: a RST may have hit the peer's NAT
// just after its SYN/ACK had left.
func (t *table) revive(now time.Duration, f *flow) {
	quiet, since := now-f.lastIn, now-f.hs.last
	patience := silence
	if f.endAt > f.lastIn {
		patience = silence * 2 / 3
	}
	if f.shaky(now) {
		patience = max(shakyFor, 2*f.hs.rtt)
	}
	switch {
	case f.unheard(now) && since >= max(unheardTick, 2*f.hs.rtt, quiet/2):
	case f.opener && f.unanswered(now, patience) && now-f.lastOut <= silence && since >= min(time.Second, patience):
	default:
		return
	}
	t.counts.Revived++
	t.sendSYN(now, f, 0)
}

// shaky says that a RST hit the handshake a moment ago: another may have hit
// the peer's NAT behind it, and only a SYN of ours mends that.
func (f *flow) shaky(now time.Duration) bool {
	if f.endAt > f.lastIn { // one came, and nothing since
		return f.opener && now-f.upAt < leastPatience
	}
	return f.opener && f.hs.refused > 0 && now-f.upAt < 2*time.Second
}

// unheard says that the peer's ACK, which ends a handshake of ours, is missing.
func (f *flow) unheard(now time.Duration) bool {
	return f.opener && f.state == established && !f.heard && now-f.lastIn < lostAfter
}
