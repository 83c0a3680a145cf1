package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/ladder"
	"rendezvous/internal/path"
	"rendezvous/internal/session"
	"rendezvous/proto"
)

// peer is another member that we have, had or want a session with. Its flows
// outlive sessions.
type peer struct {
	a     *Agent
	name  string
	flows *forward.Flows
	// offers bounds how often this member can have us probe and bind: a burst
	// for a peer whose raw flows all begin at once, then one a second.
	offers *rate.Limiter

	tcp *connections

	queue queue
	ruled queue // what waits for some kinds of path alone

	mu      sync.Mutex
	info    Peer
	current *association
	tries   tries
	log     []ladder.Attempt
	asks    map[uint64]chan *proto.Told
	raws    map[rawKey]*rawState
}

// tries is how introductions of ours have gone. The peer's mutex guards it.
type tries struct {
	joining  bool // one is under way
	failures int
	err      error // why the last one failed
	at       time.Time
	retryAt  time.Time
}

// offerBurst is a session, its punches, and every raw flow that there may be.
const offerBurst = maxRaw + 8

// peer finds or makes the peer of that name. Names are unique in a network, so
// they also settle which half of the flow numbers is whose.
func (a *Agent) peer(name string) *peer {
	a.peers.mu.Lock()
	defer a.peers.mu.Unlock()
	if p := a.peers.byName[name]; p != nil {
		return p
	}
	p := &peer{a: a, name: name, offers: rate.NewLimiter(1, offerBurst), asks: make(map[uint64]chan *proto.Told), raws: make(map[rawKey]*rawState)}
	p.info, _ = a.cfg.State.Peer(name)
	p.flows = forward.New(forward.Config{
		Carrier: p, Instance: a.instance, Services: a.services, Network: a.cfg.Host.Net, Aliases: a.aliases, Peer: name,
		Resolve: a.cfg.Host.Resolve,
		Low:     a.cfg.State.Name() < name,
		Limits:  forward.Limits{Unanswered: a.cfg.Flows.Unanswered, Answered: a.cfg.Flows.Answered, Max: a.cfg.Flows.Max},
	})
	p.tcp = newConnections(p)
	a.peers.byName[name] = p
	return p
}

func (p *peer) member() Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.info
}

// associations are the current session and those of raw flows, as far as there
// are any.
func (p *peer) associations() (all []*association) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.current != nil {
		all = append(all, p.current)
	}
	for _, st := range p.raws {
		if st.child != nil {
			all = append(all, st.child)
		}
	}
	return all
}

// association is the current session, nil without one.
func (p *peer) association() *association {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

// Send carries a burst of a flow to the peer, over these kinds of path alone
// (forward.Carrier).
func (p *peer) Send(only path.Kinds, flow uint16, b dgram.Burst) {
	if as := p.association(); as != nil && as.Ready() && as.SendOver(only, flow, b) {
		return
	}
	p.hold(held{only: only, flow: flow, burst: dgram.Burst{Buf: append([]byte{}, b.Buf...), Size: b.Size}})
}

// SendFrame carries control to the peer (forward.Carrier).
func (p *peer) SendFrame(only path.Kinds, f *proto.Frame) {
	p.a.tasks.wake() // a flow begins, or ends
	if as := p.association(); as != nil && as.Ready() && as.SendFrameOver(only, f) {
		return
	}
	if f.GetClose() != nil {
		return // no session is made to say goodbye on
	}
	p.hold(held{only: only, frame: f})
}

// hold keeps what can't be sent yet and sees to it that a path is made. What a
// rule restricts waits apart: a service whose kinds of path are not to be had
// must not take the room of others.
func (p *peer) hold(h held) {
	p.a.tasks.wake()
	if h.only != 0 {
		p.ruled.put(time.Now(), h)
	} else {
		p.queue.put(time.Now(), h)
	}
	switch as := p.association(); {
	case as == nil || !as.Ready():
		p.want("dial")
	case h.only == 0 || as.Serves(h.only):
		p.flush(as) // it became ready in between
	}
}

// flush sends what was held, in order. What still has no path of its kinds
// goes on waiting.
func (p *peer) flush(as *association) {
	for _, h := range p.queue.take(time.Now()) {
		as.sendHeld(h)
	}
	var rest []held
	for _, h := range p.ruled.take(time.Now()) {
		if !as.sendHeld(h) {
			rest = append(rest, h)
		}
	}
	p.ruled.putBack(rest)
}

func (as *association) sendHeld(h held) bool {
	if h.frame != nil {
		return as.SendFrameOver(h.only, h.frame)
	}
	return as.SendOver(h.only, h.flow, h.burst)
}

// inDemand says whether clients here use the peer's services.
func (p *peer) inDemand() bool { return p.flows.Outgoing() > 0 || p.tcp.outgoing() > 0 }

// dialed says whether clients here may.
func (p *peer) dialed() bool { return len(p.flows.Dials()) > 0 || p.tcp.dialed() }

// want starts an introduction unless there is a session that serves or will, one
// is under way, or the last failed a moment ago.
func (p *peer) want(reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tries.joining || p.current != nil && p.current.hopeful() || time.Now().Before(p.tries.retryAt) {
		return
	}
	p.tries.joining = true
	p.a.tasks.start(func(ctx context.Context) {
		err := p.join(ctx, reason)
		p.joined(err)
	})
}

// Waits between introductions that failed. They are made only while data waits
// for one, and a peer that is just coming up should not wait for us.
const (
	retryFirst = 250 * time.Millisecond
	retryMost  = time.Second
)

func (p *peer) joined(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	news := err != nil && (p.tries.err == nil || p.tries.err.Error() != err.Error())
	p.tries.joining, p.tries.err, p.tries.at = false, err, time.Now()
	if err == nil || errors.Is(err, context.Canceled) {
		p.tries.failures = 0
		return
	}
	wait := min(retryFirst<<min(p.tries.failures, 10), retryMost)
	p.tries.failures++
	p.tries.retryAt = time.Now().Add(wait)
	if p.queue.waits(time.Now()) || p.ruled.waits(time.Now()) {
		p.a.tasks.start(func(ctx context.Context) {
			if path.Wait(ctx, wait) {
				p.want("dial")
			}
		})
	}
	if news { // once for each reason
		p.a.cfg.Log.Warn().Str("peer", p.name).Err(err).Msg("no session with the peer; trying again when data wants to go there")
	}
}

// adopt makes as the session that new data takes, once it can carry some or
// there is none; of two that can, the later one. The other is read a little
// longer, and serves again if its paths heal before those of as work.
func (p *peer) adopt(as *association) {
	p.mu.Lock()
	old := p.current
	if as.ended() || old == as || old != nil && old.Ready() && (!as.Ready() || as.began.Before(old.began)) {
		p.mu.Unlock()
		return
	}
	p.current = as
	p.mu.Unlock()
	p.a.tasks.wake()
	if old != nil {
		time.AfterFunc(linger, func() {
			if p.association() != old {
				old.close()
			}
		})
	}
	p.flows.Reopen()
}

// lostFor is how long a session is kept that has no path: as long as the
// session itself goes on probing dead ones (RFC 7675).
const lostFor = 30 * time.Second

// linger is how long a replaced session still receives what is on its way.
const linger = 3 * time.Second

// moved is called when as has another best path.
func (p *peer) moved(as *association) {
	if as.raw != nil {
		p.rawMoved(as)
		return
	}
	p.adopt(as)
	p.serve(as)
	p.a.tasks.start(func(context.Context) { p.tcp.tend(time.Now()) })
	if reports := as.Paths(); len(reports) > 0 {
		r := reports[0]
		p.a.cfg.Log.Info().Str("peer", p.name).Stringer("path", r.Kind).Stringer("remote", r.Path.Addr).
			Dur("rtt", r.RTT).Msg("data takes this path")
	}
}

// serve sends what waits over as if that is the session to take now.
func (p *peer) serve(as *association) {
	if as.Ready() && p.association() == as {
		p.flush(as)
	}
}

// lost is called when as has no path any more. It is kept for a while: a cable
// that is plugged in again heals its paths sooner than an introduction could
// bring others, and maybe the coordinator can't be reached either.
func (p *peer) lost(as *association) {
	if as.raw != nil {
		p.rawLost(as)
		return
	}
	if p.association() != as {
		as.close()
		return
	}
	p.a.cfg.Log.Info().Str("peer", p.name).Msg("no path to the peer works any more; looking for another")
	if p.inDemand() {
		p.want("restart")
	}
}

// ended drops a session and makes another if anybody waits for it.
func (p *peer) ended(as *association, why string) {
	if !p.drop(as) {
		return
	}
	p.a.cfg.Log.Info().Str("peer", p.name).Str("why", why).Msg("session ended")
	if p.inDemand() {
		p.want("restart")
	}
}

// drop closes a session, and says whether it was the current one. It is closed
// first, so that a late answer to a probe can't make it current again.
func (p *peer) drop(as *association) (was bool) {
	as.close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if was = p.current == as; was {
		p.current = nil
	}
	return was
}

// tend ends what nobody uses any more: raw flows, held datagrams, the session.
func (p *peer) tend(now time.Time) {
	p.tendRaws(now)
	p.tcp.tend(now)
	p.queue.expire(now)
	p.ruled.expire(now)
	as := p.association()
	if as == nil {
		return
	}
	if since := as.lostSince(); !since.IsZero() && now.Sub(since) > lostFor {
		p.ended(as, "no path to the peer has worked for "+lostFor.String())
		return
	}
	as.sweep(now)
	if as.Ready() && as.spareDue(now) {
		as.needSpare()
	}
	idle := now.Sub(as.began) > idleSession && now.Sub(as.LastData()) > idleSession
	if idle && p.flows.Len() == 0 && p.tcp.live() == 0 {
		as.SendFrame(&proto.Frame{Body: &proto.Frame_Bye{Bye: &proto.Bye{Reason: "idle"}}})
		p.ended(as, "idle")
	}
}

func (a *Agent) closePeers(why string) {
	for _, p := range a.peers.all() {
		p.tcp.close() // while there is a session to tell it over
		if as := p.association(); as != nil {
			as.SendFrame(&proto.Frame{Body: &proto.Frame_Bye{Bye: &proto.Bye{Reason: why}}})
			as.close()
		}
		p.closeRaws()
		p.flows.Close()
	}
}

const maxLog = 64

// record keeps an attempt for explain.
func (p *peer) record(t ladder.Attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = append(p.log, t)
	if len(p.log) > maxLog {
		p.log = append([]ladder.Attempt{}, p.log[len(p.log)-maxLog:]...)
	}
}

// findPeer gives the peer of a name that is, or was, a member's.
func (a *Agent) findPeer(ctx context.Context, name string) (*peer, error) {
	if name == a.cfg.State.Name() {
		return nil, fmt.Errorf("%q is this agent itself; name another member", name)
	}
	a.peers.mu.Lock()
	p := a.peers.byName[name]
	a.peers.mu.Unlock()
	if p != nil {
		return p, nil
	}
	if _, known := a.cfg.State.Peer(name); !known {
		if _, err := a.lookUp(ctx, name); err != nil {
			return nil, err
		}
	}
	return a.peer(name), nil
}

var _ session.Handler = (*events)(nil)
