package session

import (
	"net/netip"
	"time"

	"rendezvous/internal/path"
)

// table holds the paths of a session. The session's mutex guards it.
type table struct {
	states map[path.Path]*state
	best   *state

	verdict  Verdict   // the last one
	sought   time.Time // when Degraded was last told
	seekWait time.Duration
}

// state is what is known of one path.
type state struct {
	path     path.Path
	kind     path.Kind
	since    time.Time     // when it was first tried or heard
	chosen   time.Time     // when data last began to take it
	proven   chan struct{} // closed once the peer has answered a probe here
	answer   answering
	heard    time.Time // when something genuine last came from there
	failing  bool      // the kernel refused a write
	dead     bool
	doubt    bool
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
	st := &state{path: p, kind: k, since: now, proven: make(chan struct{}), size: newSizeSearch(extraOf(p))}
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

func (st *state) usable() bool { return st.isProven() && !st.dead }

// better says whether a should carry data rather than b. What was measured to
// be bad comes last, then kinds count; among paths of one kind the shorter
// round trip, with hysteresis in favour of the one in use so that two equal
// paths don't alternate.
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
	margin := func(st *state) time.Duration {
		if st == current {
			return max(5*time.Millisecond, st.answer.rtt/4)
		}
		return 0
	}
	return a.answer.rtt-margin(a) < b.answer.rtt-margin(b)
}

// choose picks the best path again and publishes it. Caller holds s.mu and
// tells the events after letting go of it.
func (s *Session) choose(now time.Time) []Event {
	old := s.paths.best
	var best *state
	for _, st := range s.paths.states {
		if st.usable() && better(st, best, old) {
			best = st
		}
	}
	s.paths.best = best
	s.publish()
	if best == old {
		return nil
	}
	var events []Event
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
	b := s.paths.best
	if b == nil {
		s.route.Store(nil)
		return
	}
	r := &route{path: b.path, kind: b.kind, mtu: b.size.mtu, doubt: b.doubt}
	if b.doubt {
		if spare := s.spare(); spare != nil {
			also := spare.path
			r.also, r.mtu = &also, min(r.mtu, spare.size.mtu)
		}
	}
	s.route.Store(r)
}

// spare is the second-best usable path.
func (s *Session) spare() *state {
	var spare *state
	for _, st := range s.paths.states {
		if st != s.paths.best && st.usable() && better(st, spare, nil) {
			spare = st
		}
	}
	return spare
}

// heard notes that something genuine came on p.
func (s *Session) heard(p path.Path) {
	s.mu.Lock()
	if st := s.paths.states[p]; st != nil {
		st.heard = time.Now()
	}
	s.mu.Unlock()
}

// heardRaw is heard for payload that nothing seals: it says whether the peer
// has proved that it is there.
func (s *Session) heardRaw(p path.Path) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.paths.states[p]
	if st == nil || st.heard.IsZero() {
		return false
	}
	st.heard = time.Now()
	return true
}

// lossMeter measures the share of our datagrams that the peer did not open,
// between answers to probes; each probe notes what was sent before it and
// each answer tells what had come by then. So it knows only the path that all
// data takes.
type lossMeter struct {
	next, received uint64
	since          time.Time // of next and received, zero without any
	loss           float64
	rate           float64 // datagrams a second
	high           int     // measurements in a row that found more than the threshold
}

// lossBase is how many datagrams a measurement needs: of 50, two in a row seem
// to have lost 5 % where 1 % is lost once in 5000 times.
const lossBase = 50

func (m *lossMeter) answered(now time.Time, next, received uint64, threshold float64) {
	sent := next - m.next
	switch {
	case m.since.IsZero() || next < m.next || received < m.received:
	case sent < lossBase:
		return
	default:
		m.loss = max(0, 1-float64(received-m.received)/float64(sent))
		m.rate = float64(sent) / max(now.Sub(m.since).Seconds(), 1e-3)
		if m.high++; m.loss < threshold {
			m.high = 0
		}
	}
	m.next, m.received, m.since = next, received, now
}

// pause forgets where a measurement began: data takes two paths, so that what
// came says nothing about one of them. Earlier measurements stay: a path that
// loses much is in doubt again and again.
func (m *lossMeter) pause() { m.since = time.Time{} }

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
