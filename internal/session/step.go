package session

import (
	"cmp"
	"time"

	"rendezvous/internal/path"
)

const (
	// doubtPace is how often a path in doubt is probed.
	doubtPace = 100 * time.Millisecond
	// deadPace is how often a dead path is still probed, until its consent
	// ends: a cable that is plugged in again heals at once.
	deadPace = time.Second
	// maxSpares is how many spares are kept alive beside the best.
	maxSpares = 2
)

// step does what is due now: probes, verdicts, renewal of keys. It returns
// how long nothing will be due.
func (s *Session) step(now time.Time) time.Duration {
	s.mu.Lock()
	s.meter()
	active := s.seen.active(now, s.cfg.Timers.Active)
	events := s.judge(now, active)
	if active && !s.seen.was {
		events = append(events, Resumed)
	}
	s.seen.was = active
	out, next := s.probe(now, active)
	starved, wait := s.tendRules(now)
	events, next = append(events, starved...), min(next, wait)
	trials, found, wait := s.measure(now, active)
	out, events, next = append(out, trials...), append(events, found...), min(next, wait)
	s.keys.retire(now)
	frame := s.renew(now)
	if s.probes.rekey.finish != nil {
		next = min(next, rekeyAgain)
	}
	s.mu.Unlock()
	s.lead(active)
	s.post(out)
	if frame != nil {
		s.SendFrame(frame)
	}
	s.tell(events)
	return next
}

// probe asks on each path what is due. Caller holds s.mu.
func (s *Session) probe(now time.Time, active bool) (out []parcel, next time.Duration) {
	next = s.idlePace()
	kept := s.kept()
	early := s.early(now, active, kept)
	for _, st := range s.paths.states {
		if !s.stays(st, now) {
			continue
		}
		wait := s.due(st, now, active, kept)
		if wait <= 0 || wait <= early && st.quiet() {
			out = append(out, s.ask(st, 0, now, nil))
			wait = s.due(st, now, active, kept)
		}
		sizes, due := s.sizes(st, now, active, kept[st.path])
		for _, size := range sizes {
			out = append(out, s.ask(st, size, now, nil))
		}
		next = min(next, wait, due)
	}
	return out, next
}

// sizes are those to ask for on a path now, and when more are. Caller holds s.mu.
func (s *Session) sizes(st *state, now time.Time, active, kept bool) (sizes []int, due time.Duration) {
	due = s.idlePace()
	switch {
	case s.leads(st) && !st.doubt:
		mtu := st.size.mtu
		st.size.weigh(extraOf(st.path), now)
		sizes = st.size.next(now, st.answer.rtt, active)
		if st.size.mtu != mtu {
			s.publish()
		}
		if active || st.size.busy() {
			due = max(0, st.size.due.Sub(now))
		}
	case active && kept && !st.doubt && !st.dead:
		sizes = st.size.explore(now, st.answer.rtt)
	}
	return sizes, due
}

// judge puts paths in doubt and declares them dead.
func (s *Session) judge(now time.Time, active bool) []Event {
	var events []Event
	changed := false
	for _, st := range s.paths.states {
		a := &st.answer
		if !st.isProven() || a.waitsFrom.IsZero() {
			continue
		}
		late := now.Sub(a.waitsFrom)
		if !st.doubt && (late > 3*a.rtt+s.cfg.Timers.Doubt || st.failing) {
			st.doubt = true
			changed = changed || s.paths.best != nil && s.paths.best.doubt // it may be the spare
			if s.leads(st) {
				changed = true
				events = append(events, InDoubt)
				s.askSpares()
			}
		}
		if !st.dead && a.unanswered >= goneAfter && late > s.cfg.Timers.Dead+4*a.rtt {
			st.dead, changed = true, true
		}
		if st.dead {
			s.expire(st, now)
		}
	}
	if changed {
		events = append(events, s.choose(now)...)
	}
	return events
}

// askSpares has every other path probed at once: what took the best one may have
// taken a spare with it, which then must not get the data. Caller holds s.mu.
func (s *Session) askSpares() {
	for _, st := range s.paths.states {
		if st.usable() && !st.doubt {
			st.answer.asked = time.Time{}
		}
	}
}

// expire forgets a path that the peer has not answered on for so long that
// its consent has ended.
func (s *Session) expire(st *state, now time.Time) {
	last := st.answer.answered
	if last.IsZero() {
		last = st.since
	}
	if now.Sub(last) > s.cfg.Timers.Consent && st != s.paths.best {
		delete(s.paths.states, st.path)
	}
}

// kept is the paths that are worth keeping alive: the best, the spares next in
// rank, and those of a better kind that were measured to be bad.
func (s *Session) kept() map[path.Path]bool {
	kept := make(map[path.Path]bool, maxSpares+1)
	if s.paths.best != nil {
		kept[s.paths.best.path] = true
	}
	for range maxSpares {
		var next *state
		for _, st := range s.paths.states {
			if !kept[st.path] && !st.elder && st.usable() && (next == nil || better(st, next, nil)) {
				next = st
			}
		}
		if next == nil {
			break
		}
		kept[next.path] = true
	}
	for _, st := range s.paths.states {
		if st.outdone.is && st.usable() && !st.elder || s.leads(st) {
			kept[st.path] = true // it may get better, or a rule wants it
		}
	}
	return kept
}

// early is how much too soon idle paths may be probed: where one is due, those
// that will be soon go with it, so that the host wakes once for all.
func (s *Session) early(now time.Time, active bool, kept map[path.Path]bool) time.Duration {
	for _, st := range s.paths.states {
		if !active && st.quiet() && s.due(st, now, active, kept) <= 0 {
			return s.idlePace() / 2
		}
	}
	return 0
}

// quiet says whether a path is well, and owes no answer.
func (st *state) quiet() bool { return st.usable() && !st.doubt && st.answer.waitsFrom.IsZero() }

// joins says whether an idle path that the peer has just probed is to be probed
// now and not later: then both wake once for the probes of both. Caller holds s.mu.
func (s *Session) joins(st *state, asked time.Duration, now time.Time) bool {
	return st.quiet() && asked >= s.paceOf(st)/2 && !s.seen.active(now, s.cfg.Timers.Active) && s.kept()[st.path]
}

// due is how long until st wants a probe.
func (s *Session) due(st *state, now time.Time, active bool, kept map[path.Path]bool) time.Duration {
	t := s.cfg.Timers
	pace := s.paceOf(st)
	switch {
	case st.dead:
		pace = deadPace
	case st.doubt && (s.leads(st) || st.answer.unanswered < goneAfter):
		pace = doubtPace
	case active && s.leads(st):
		pace = t.Check
	case !kept[st.path]:
		pace = t.Consent + t.Keepalive // let it end
	}
	next := st.answer.asked.Add(pace).Sub(now)
	if next <= 0 || st.answer.waitsFrom.IsZero() || st.doubt || st.dead {
		return next
	}
	// Wake when the answer is late, to doubt in time.
	late := st.answer.waitsFrom.Add(3*st.answer.rtt + t.Doubt + time.Millisecond).Sub(now)
	return min(next, max(late, time.Millisecond))
}

// Keep has idle paths over IPv4 probed so often, in place of the timers'
// keepalive: the lifetime of mappings was found out.
func (s *Session) Keep(every time.Duration) {
	s.mu.Lock()
	s.paths.keep = every
	s.mu.Unlock()
	s.poke()
}

// paceOf is how often a path is probed while idle. Caller holds s.mu.
func (s *Session) paceOf(st *state) time.Duration {
	if st.path.Addr.Addr().Unmap().Is4() {
		return s.idlePace()
	}
	return s.cfg.Timers.Keepalive
}

// idlePace is how often an idle path over IPv4 is probed. Caller holds s.mu.
func (s *Session) idlePace() time.Duration { return cmp.Or(s.paths.keep, s.cfg.Timers.Keepalive) }

// Check probes every proven path now: the network here has changed.
func (s *Session) Check() {
	now := time.Now()
	s.mu.Lock()
	s.paths.past = nil // it was the other network's
	var out []parcel
	for _, st := range s.paths.states {
		if st.isProven() {
			out = append(out, s.ask(st, 0, now, nil))
		}
	}
	s.mu.Unlock()
	s.post(out)
	s.poke()
}
