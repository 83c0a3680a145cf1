package agent

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/session"
	"rendezvous/proto"
)

const (
	// renewAt is the part of a mapping's lifetime after which a path through it
	// gets a successor.
	renewAt = 0.8
	// renewPause is between attempts, and doubles up to renewMost.
	renewPause = 5 * time.Second
	renewMost  = 80 * time.Second
	// inUse is since when data must have crossed for a path to be renewed.
	inUse = time.Minute
	// unusedFor is how long a socket for direct paths may be without one.
	unusedFor = time.Minute
)

// renewal is how it stands with successors of a direct path that is about to
// end, and what the peer has seen of its mapping. The association's mutex
// guards it.
type renewal struct {
	busy  bool
	at    time.Time     // when the last one began
	wait  time.Duration // until another may
	on    path.Path
	seen  netip.AddrPort // where the peer sees us on it
	since time.Time      // since when
	born  bool           // that mapping was new then
}

// renew punches anew while the direct path still works where a NAT is known to
// end mappings at an age: ours, or the peer's as it says. The session's
// initiator does so for both; where it does not, who is behind such a NAT does.
// It returns when to look again.
func (p *peer) renew(now time.Time) (next time.Duration) {
	next = min(p.pace(now), p.renewRaws(now, false))
	as := p.association()
	if as == nil || !as.Ready() {
		return next
	}
	if as.answeredLately() {
		return flowsEvery
	}
	age, due := as.ageing(now)
	if due == 0 || as.sprays() || !p.carries(now) {
		return next
	}
	if !as.initiator {
		due += 2 * seekPause
	}
	if as.renews(now, age < due) {
		p.a.tasks.start(func(context.Context) { as.succeed() })
	}
	return min(next, due-age)
}

// pace is how often it is to be looked whether paths need successors.
func (p *peer) pace(now time.Time) time.Duration {
	for _, as := range p.associations() {
		if now.Sub(as.LastData()) < lately {
			return flowsEvery
		}
	}
	if p.carries(now) && p.a.nature.ages.watching() {
		return tendEvery
	}
	return tendSeldom
}

// succeed has a direct path follow on the one that there is; renews came before.
func (as *association) succeed() {
	defer as.renewed()
	as.Renew(path.DirectUDP)
	m := &proto.Again{Attempt: as.learned(2), Renews: true}
	if err := as.againWith(as.ctx, m, []path.Kind{path.DirectUDP}, false); err != nil && as.ctx.Err() == nil {
		as.peer.record(failedAttempt(err))
	}
}

// ageing is how long ago the best path's mapping here was made, at most, and at
// which age it gets a successor: 0 where it needs none.
func (as *association) ageing(now time.Time) (age, due time.Duration) {
	paths := as.Paths()
	if len(paths) == 0 || paths[0].State != PathBest || paths[0].Kind != path.DirectUDP || !paths[0].Path.Addr.Addr().Unmap().Is4() {
		return 0, 0
	}
	best := paths[0]
	made := as.madeAt(best.Path)
	if made.IsZero() {
		return 0, 0
	}
	age = now.Sub(made)
	ours := as.a.translated(best)
	if ours {
		as.observed(best, made, now)
		if as.a.nature.ages.headStarted(made) {
			return age, age
		}
	}
	for _, end := range as.ends(best, ours) {
		if d := time.Duration(renewAt * float64(end)); d > 0 && (due == 0 || d < due) {
			due = d
		}
	}
	return age, due
}

// ends are the ages at which the NATs between end the mappings of a path; 0 for
// one that is not known. ours says whether one of them is here.
func (as *association) ends(best session.Report, ours bool) (all []time.Duration) {
	if ours {
		all = append(all, as.a.nature.ages.lifetime(as.a))
	}
	if as.initiator && !path.Private(best.Path.Addr.Addr()) {
		all = append(all, as.theirLifetime())
		if parent := as.peer.association(); as.raw != nil && parent != nil {
			all = append(all, parent.theirLifetime()) // it may have heard since
		}
	}
	return all
}

// madeAt is when the socket of a path was opened.
func (as *association) madeAt(p path.Path) time.Time {
	as.mu.Lock()
	defer as.mu.Unlock()
	for _, e := range slices.Concat(as.a.mains, as.sockets.all) {
		if e.conn == p.Conn {
			return e.since
		}
	}
	return time.Time{}
}

// observed takes in where the peer sees us: where that changes on one path
// though nothing has changed here, a mapping has ended.
func (as *association) observed(best session.Report, made, now time.Time) {
	as.mu.Lock()
	r := &as.search.renewal
	old, same := *r, r.on == best.Path
	if !same || r.seen != best.Observed {
		r.on, r.seen, r.since = best.Path, best.Observed, now
		r.born = same || now.Sub(made) < agePace
	}
	as.mu.Unlock()
	if same && old.seen != best.Observed && old.born {
		as.a.nature.ages.ended(as.a, now.Sub(old.since))
	}
}

// theirLifetime is how long mappings last at the peer, as it says; 0 where it
// does not.
func (as *association) theirLifetime() time.Duration {
	as.mu.Lock()
	defer as.mu.Unlock()
	d := time.Duration(as.heard.last.behaviour.GetLifetimeS()) * time.Second
	if d < ageLeast || d > ageMost {
		return 0
	}
	return d
}

// sprays says whether a path between these two NATs takes hundreds of ports: its
// end costs less than a spray at each renewal would. The relay is the spare.
func (as *association) sprays() bool { return as.planned(as.learned(2)).Name == punch.Spray }

// planned is what an attempt would do between these two NATs, by what both
// agents have said last.
func (as *association) planned(attempt uint32) punch.Plan {
	as.mu.Lock()
	theirs := as.heard.last.behaviour
	as.mu.Unlock()
	var mine *proto.Behaviour
	if here := as.a.here.Load(); here != nil {
		mine = here.behaviour
	}
	return punch.PlanFor(mine, theirs, as.initiator, attempt)
}

// renews says whether the caller is the one to renew; then it ends with renewed.
// The waits between attempts grow until a successor is there, which is young.
func (as *association) renews(now time.Time, young bool) bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	s := &as.search
	r := &s.renewal
	if young {
		r.wait = 0
		return false
	}
	if r.busy || s.punching || s.seeking || now.Sub(r.at) < r.wait {
		return false
	}
	r.busy, r.at, r.wait = true, now, min(max(2*r.wait, renewPause), renewMost)
	return true
}

func (as *association) renewed() {
	as.mu.Lock()
	as.search.renewal.busy = false
	as.mu.Unlock()
}

// carries says whether there are flows or connections with the peer, and data
// crossed a while ago at most, in the session or in a raw flow beside it.
func (p *peer) carries(now time.Time) bool {
	if p.flows.Len() == 0 && p.tcp.live() == 0 {
		return false
	}
	return slices.ContainsFunc(p.associations(), func(as *association) bool { return now.Sub(as.LastData()) <= inUse })
}

// renewRaws gives the raw flows that we dialed new 5-tuples in time; all that are
// not quite new where the peer wants it, which can't begin any itself. It returns
// when to look again.
func (p *peer) renewRaws(now time.Time, wanted bool) (next time.Duration) {
	next = tendSeldom
	p.mu.Lock()
	children := make(map[rawKey]*association)
	for key, st := range p.raws {
		if st.dialing && !st.busy && st.child != nil {
			children[key] = st.child
		}
	}
	p.mu.Unlock()
	for key, child := range children {
		age, due := child.ageing(now)
		if wanted {
			due = renewPause
		}
		if due == 0 || now.Sub(child.LastData()) > inUse {
			continue
		}
		if next = min(next, due-age); !child.renews(now, age < due) {
			continue
		}
		p.mu.Lock()
		if st := p.raws[key]; st != nil && st.child == child {
			p.startRaw(key)
		}
		p.mu.Unlock()
		child.renewed()
	}
	return next
}

// translated says whether the peer sees us at an IPv4 address that is not the
// host's.
func (a *Agent) translated(r session.Report) bool {
	at := r.Observed.Addr().Unmap()
	return at.Is4() && !a.hasAddr(at)
}

// sweep closes the sockets that no direct path is on any more.
func (as *association) sweep(now time.Time) {
	as.mu.Lock()
	var old []*endpoint
	for _, e := range as.sockets.all {
		if e.kind == path.DirectUDP && now.Sub(e.since) > unusedFor {
			old = append(old, e)
		}
	}
	as.mu.Unlock()
	as.discard(old)
}
