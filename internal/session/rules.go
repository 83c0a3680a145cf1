package session

import (
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

const (
	// ruleIdle is how long a rule is kept that nothing is sent under.
	ruleIdle = 3 * time.Minute
	// A rule that no path serves has paths looked for at once, and again after
	// this, doubled each time up to the most, while data is sent under it.
	starvedFirst = 5 * time.Second
	starvedMost  = 5 * time.Minute
)

// rules are those that data was sent under lately, by their set of kinds. A
// sender finds its route with two loads.
type rules [path.AllKinds + 1]atomic.Pointer[rule]

// rule is a service's restriction to some kinds of path, with a best path of
// its own.
type rule struct {
	only  path.Kinds
	route atomic.Pointer[route]
	used  atomic.Int64 // as in activity

	// The session's mutex guards these.
	best    *state
	starved reminder
}

// SendOver is Send for a flow whose datagrams may take only these kinds of
// path; the empty set is no rule. Where it reports false, no such path works
// yet: Served will tell when one does, and Starved what is missing.
func (s *Session) SendOver(only path.Kinds, flow uint16, b dgram.Burst) bool {
	if only == 0 {
		return s.Send(flow, b)
	}
	r := s.routeFor(only)
	return r != nil && s.sendBy(r, flow, b)
}

// routeFor is the route of a rule, nil without a path.
func (s *Session) routeFor(only path.Kinds) *route {
	only &= path.AllKinds
	rl := s.rules[only].Load()
	if rl == nil {
		if rl = s.admit(only); rl == nil {
			return nil
		}
	}
	if s.seen.touch(&rl.used, s.cfg.Timers.Active) {
		s.poke() // its path may have died while it was idle, or be missing
	}
	return rl.route.Load()
}

// admit begins to keep a route for a rule; nil where the session has ended.
func (s *Session) admit(only path.Kinds) *rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.done:
		return nil
	default:
	}
	rl := s.rules[only].Load()
	if rl == nil {
		rl = &rule{only: only}
		s.rules[only].Store(rl)
		s.paths.rules = append(s.paths.rules, rl)
		s.chooseUnder(rl, time.Now())
		s.publish()
	}
	return rl
}

// Serves says whether a path works that the rule allows.
func (s *Session) Serves(only path.Kinds) bool {
	rl := s.rules[only&path.AllKinds].Load()
	return rl != nil && rl.route.Load() != nil
}

// Room is how large a datagram of a flow under the rule may be to cross its path
// whole, in bytes; 0 while there is no such path.
func (s *Session) Room(only path.Kinds) int {
	r := s.route.Load()
	if rl := s.rules[only&path.AllKinds].Load(); only != 0 && rl != nil {
		r = rl.route.Load()
	} else if only != 0 {
		r = nil
	}
	if r == nil {
		return 0
	}
	return service(r.mtu, s.cfg.Raw)
}

// Starving is the kinds of path that rules wait for which no path serves.
func (s *Session) Starving() (kinds path.Kinds) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rl := range s.paths.rules {
		if rl.best == nil {
			kinds |= rl.only
		}
	}
	return kinds
}

// chooseUnder picks the best path that a rule allows. Caller holds s.mu and
// publishes.
func (s *Session) chooseUnder(rl *rule, now time.Time) (events []Event) {
	var best *state
	for _, st := range s.paths.states {
		if rl.only.Has(st.kind) && st.usable() && preferred(st, best, rl.best) {
			best = st
		}
	}
	old := rl.best
	if rl.best = best; best == old || best == nil {
		return nil
	}
	if best != s.paths.best {
		best.answer.loss = lossMeter{}
		if best.size.due.IsZero() {
			best.size.begin(now)
		}
	}
	if old == nil {
		rl.starved.wait = 0
		events = append(events, Served)
	}
	return events
}

// leads says whether data takes st: it is the best of all, or of a rule.
func (s *Session) leads(st *state) bool {
	if st == s.paths.best {
		return true
	}
	for _, rl := range s.paths.rules {
		if st == rl.best {
			return true
		}
	}
	return false
}

// tendRules forgets the rules that nothing is sent under, and has paths looked
// for where one is starved. It returns how long nothing will be due. Caller
// holds s.mu.
func (s *Session) tendRules(now time.Time) (events []Event, next time.Duration) {
	next = s.idlePace()
	kept := s.paths.rules[:0]
	for _, rl := range s.paths.rules {
		idle := now.Sub(s.seen.began) - time.Duration(rl.used.Load())
		if idle > ruleIdle && rl.used.Load() > 0 {
			s.rules[rl.only].Store(nil)
			continue
		}
		kept = append(kept, rl)
		if rl.best != nil || rl.used.Load() == 0 || idle > s.cfg.Timers.Active {
			continue
		}
		tell, left := rl.starved.due(now, starvedFirst, starvedMost)
		if tell {
			events = append(events, Starved)
		}
		next = min(next, left)
	}
	clear(s.paths.rules[len(kept):])
	s.paths.rules = kept
	return events, next
}
