package session

import (
	"net/netip"
	"sync/atomic"
	"time"

	"rendezvous/internal/path"
)

// table holds the paths of a session. The session's mutex guards it.
type table struct {
	states map[path.Path]*state
	best   *state
	rules  []*rule
	keep   time.Duration // between probes of an idle path over IPv4, where Keep said so

	beside beside // what goes past the session

	verdict  Verdict // the last one
	degraded reminder
	past     map[path.Kind]past
}

// reminder says when an event that holds on is told again: after a wait that
// doubles.
type reminder struct {
	told time.Time
	wait time.Duration
}

// due says whether it is told now, and how long until the next time.
func (r *reminder) due(now time.Time, first, most time.Duration) (tell bool, left time.Duration) {
	if left = r.told.Add(r.wait).Sub(now); left > 0 {
		return false, left
	}
	r.told, r.wait = now, min(max(2*r.wait, first), most)
	return true, r.wait
}

// state is what is known of one path.
type state struct {
	path     path.Path
	kind     path.Kind
	since    time.Time     // when it was first tried or heard
	chosen   time.Time     // when data last began to take it
	proven   chan struct{} // closed once the peer has answered a probe here
	answer   answering
	heard    time.Time      // when something genuine last came from there
	tx       *atomic.Uint64 // our data datagrams on it; its routes count
	rx       uint64         // the peer's that we opened
	failing  bool           // the kernel refused a write
	dead     bool
	doubt    bool
	elder    bool // newer ones of its kind are to take its place
	size     sizeSearch
	trial    trial
	outdone  outdone
	observed netip.AddrPort // where the peer sees us on this path
}

// answering is the record of our probes on one path.
type answering struct {
	rtt        time.Duration // smoothed (RFC 6298: 1/8)
	asked      time.Time     // the last probe
	answered   time.Time     // the last answer
	waitsFrom  time.Time     // the first probe since the last answer; zero while none waits
	unanswered int           // probes since the last answer
	loss       lossMeter
}

// heard notes an answer; small says that its probe had no padding, which
// takes a little longer on slow links.
func (a *answering) heard(rtt time.Duration, small bool, now time.Time) {
	switch {
	case a.rtt == 0:
		a.rtt = rtt
	case small:
		a.rtt += (rtt - a.rtt) / 8
	}
	a.answered, a.waitsFrom, a.unanswered = now, time.Time{}, 0
}

const (
	// maxPaths bounds how many addresses a session watches: a candidate pair
	// for each of 8 candidates on two families, and as many again that the
	// peer turned up from unexpectedly.
	maxPaths = 32
	// goneAfter is how many probes in a row a path may leave unanswered,
	// beside the time it may take, before it counts as dead: so a suspended
	// machine does not wake up to dead paths.
	goneAfter = 4
)

// add finds or makes the state of p. A full table makes room by forgetting
// the unproven path that was heard from longest ago; nil if none can go.
func (s *Session) add(p path.Path, k path.Kind, now time.Time) *state {
	if st := s.paths.states[p]; st != nil {
		return st
	}
	if len(s.paths.states) >= maxPaths {
		var oldest *state
		for _, st := range s.paths.states {
			if !st.isProven() && (oldest == nil || st.since.Before(oldest.since)) {
				oldest = st
			}
		}
		if oldest == nil {
			return nil
		}
		delete(s.paths.states, oldest.path)
	}
	st := &state{path: p, kind: k, since: now, proven: make(chan struct{}), tx: new(atomic.Uint64), size: newSizeSearch(extraOf(p)),
		outdone: s.paths.remembered(k, now)}
	s.paths.states[p] = st
	return st
}

func (st *state) isProven() bool {
	select {
	case <-st.proven:
		return true
	default:
		return false
	}
}

// revive notes that the peer has answered, and says whether that is news.
func (st *state) revive() (news bool) {
	news = st.dead || st.doubt || st.failing
	st.dead, st.doubt, st.failing = false, false, false
	if !st.isProven() {
		close(st.proven)
		return true
	}
	return news
}

func (st *state) usable() bool { return st.isProven() && !st.dead }

// better says whether a should carry data rather than b. What was measured to
// be bad comes last, then kinds count; among paths of one kind a newer one where
// that is wanted (see Renew), then the shorter round trip, with hysteresis in
// favour of the one in use so that two equal paths don't alternate.
func better(a, b, current *state) bool {
	if b == nil {
		return true
	}
	if a.outdone.is != b.outdone.is {
		return b.outdone.is
	}
	if a.kind != b.kind {
		return a.kind < b.kind
	}
	if a.elder != b.elder {
		return b.elder
	}
	margin := func(st *state) time.Duration {
		if st == current {
			return max(5*time.Millisecond, st.answer.rtt/4)
		}
		return 0
	}
	return a.answer.rtt-margin(a) < b.answer.rtt-margin(b)
}

// preferred is better, but of two paths that carry no data yet the one that owes
// no answer is taken. The one in use is not left for its doubt alone: data goes
// over the spare as well.
func preferred(a, b, current *state) bool {
	if b != nil && a != current && b != current && a.doubt != b.doubt {
		return b.doubt
	}
	return better(a, b, current)
}

// choose picks the best path again and publishes it. Caller holds s.mu and
// tells the events after letting go of it.
func (s *Session) choose(now time.Time) []Event {
	old := s.paths.best
	var best *state
	for _, st := range s.paths.states {
		if st.usable() && preferred(st, best, old) {
			best = st
		}
	}
	s.paths.best = best
	var events []Event
	for _, rl := range s.paths.rules {
		events = append(events, s.chooseUnder(rl, now)...)
	}
	s.publish()
	if best == old {
		return events
	}
	switch {
	case best == nil:
		events = append(events, Lost)
	default:
		best.chosen = now
		best.answer.loss = lossMeter{}
		events = append(events, BestChanged)
		if best.size.due.IsZero() {
			best.size.begin(now)
		}
	}
	if old != nil && old.dead && !old.kind.Relayed() {
		events = append(events, DirectLost)
	}
	return events
}

// publish stores the route that Send reads.
func (s *Session) publish() {
	select {
	case <-s.done:
		return
	default:
	}
	s.route.Store(s.routeTo(s.paths.best, 0))
	for _, rl := range s.paths.rules {
		rl.route.Store(s.routeTo(rl.best, rl.only))
	}
}

// routeTo is the route over the best path under a rule, nil without one.
func (s *Session) routeTo(b *state, only path.Kinds) *route {
	if b == nil {
		return nil
	}
	r := &route{path: b.path, kind: b.kind, mtu: b.size.mtu, doubt: b.doubt, tx: b.tx}
	if b.doubt {
		if spare := s.spare(b, only); spare != nil {
			also := spare.path
			r.also, r.mtu = &also, min(r.mtu, spare.size.mtu)
		}
	}
	return r
}

// spare is the second-best usable path under a rule.
func (s *Session) spare(best *state, only path.Kinds) *state {
	var spare *state
	for _, st := range s.paths.states {
		if st != best && only.Allows(st.kind) && st.usable() && preferred(st, spare, nil) {
			spare = st
		}
	}
	return spare
}

// heard notes that n genuine datagrams came on p.
func (s *Session) heard(p path.Path, n int) {
	s.mu.Lock()
	if st := s.paths.states[p]; st != nil {
		st.heard = time.Now()
		st.rx += uint64(n)
	}
	s.mu.Unlock()
}

// heardRaw is heard for payload that nothing seals: it says whether the peer
// has proved that it is there.
func (s *Session) heardRaw(p path.Path, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.paths.states[p]
	if st == nil || st.heard.IsZero() {
		return false
	}
	st.heard = time.Now()
	st.rx += uint64(n)
	return true
}

// Drop forgets a path whose conn is about to be closed.
func (s *Session) Drop(p path.Path) {
	s.mu.Lock()
	st := s.paths.states[p]
	var events []Event
	if st != nil {
		st.dead = true
		events = s.choose(time.Now())
		delete(s.paths.states, p)
	}
	s.mu.Unlock()
	s.tell(events)
}
