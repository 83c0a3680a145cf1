package agent

import (
	"context"
	"time"
)

// The agent sleeps until something is due. What begins in between says so (wake),
// so that an agent that carries nothing wakes a few times a minute.
const (
	// flowsEvery is how often flows that are in use are looked at, and what a peer
	// has not answered is repeated: a client's only datagram may have been lost
	// with it.
	flowsEvery = time.Second
	// tendEvery is how often sessions are looked through where something waits,
	// and tendSeldom where nothing does.
	tendEvery  = 5 * time.Second
	tendSeldom = 15 * time.Second
	// lately is since when data must have crossed for a session to be looked at
	// each second.
	lately = 5 * time.Second
	// idleSession is how long a session without flows and data is kept.
	idleSession = 5 * time.Minute
)

// wake says that something begins that is to be tended.
func (t *tasks) wake() { notice(t.due) }

// rounds are when tend looks again: at what is in use, and at all.
type rounds struct {
	look, sweep, swept time.Time
}

// soon has both come as soon as they may.
func (r *rounds) soon(now time.Time) {
	r.look = earlier(r.look, now.Add(flowsEvery))
	r.sweep = earlier(r.sweep, r.swept.Add(tendEvery))
}

func (r *rounds) next() time.Time { return earlier(r.look, r.sweep) }

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// tend expires what is idle and writes what may be lost in a crash.
func (a *Agent) tend(ctx context.Context) {
	now := time.Now()
	r := rounds{look: now.Add(flowsEvery), sweep: now.Add(tendEvery), swept: now}
	timer := time.NewTimer(flowsEvery)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = a.cfg.State.Flush()
			return
		case <-a.tasks.due:
			r.soon(time.Now())
		case <-timer.C:
			now := time.Now()
			r.look = now.Add(a.look(now))
			if !now.Before(r.sweep) {
				r.swept, r.sweep = now, now.Add(a.sweep(now))
			}
		}
		timer.Reset(max(time.Until(r.next()), time.Millisecond))
	}
}

// look looks at what is in use, and says when to do so again.
func (a *Agent) look(now time.Time) (next time.Duration) {
	next = a.public.tend(now)
	for _, p := range a.peers.all() {
		next = min(next, p.flows.Expire(now), p.renew(now))
	}
	return max(next, flowsEvery)
}

// sweep looks at all there is, and says when to do so again.
func (a *Agent) sweep(now time.Time) (next time.Duration) {
	next = tendSeldom
	a.retryDials()
	if len(a.late.all()) > 0 {
		next = tendEvery
	}
	for _, p := range a.peers.all() {
		if p.tend(now); p.waits(now) {
			next = tendEvery
		}
	}
	if err := a.cfg.State.Flush(); err != nil {
		a.refusals.note(a, "state", err)
		next = tendEvery
	}
	if a.inUse() {
		a.link.resume()
	}
	return next
}

// waits says whether something of the peer's is not as it should be, or goes on.
func (p *peer) waits(now time.Time) bool {
	if p.queue.waits(now) || p.ruled.waits(now) || p.tcp.live() > 0 || p.rawWaits() {
		return true
	}
	as := p.association()
	if as == nil {
		return false
	}
	as.mu.Lock()
	legs := len(as.sockets.legs)
	as.mu.Unlock()
	return legs == 0 || !as.Ready() || !as.lostSince().IsZero() || now.Sub(as.LastData()) < lately
}

// rawWaits says whether a raw flow is without a path of its own.
func (p *peer) rawWaits() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, st := range p.raws {
		if st.child == nil || !st.retryAt.IsZero() {
			return true
		}
	}
	return false
}
