package session

import (
	"time"

	"rendezvous/internal/path"
)

// letGo is how long a path is still there after data has left it for its
// successor: the peer may need longer to prove that one.
const letGo = 5 * time.Second

// Renew has newer paths of a kind preferred to those that there are: data moves
// once one is proven, and a little later the old ones are forgotten. It is for
// paths that are known to end soon.
func (s *Session) Renew(k path.Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.paths.states {
		st.elder = st.elder || st.kind == k && st.isProven()
	}
}

// replaced says whether data has left st for a newer path of its kind, and the
// peer has had time to do so too. Caller holds s.mu.
func (s *Session) replaced(st *state, now time.Time) bool {
	best := s.paths.best
	return st.elder && best != nil && !best.elder && best.kind == st.kind && !s.leads(st) && now.Sub(best.chosen) > letGo &&
		now.Sub(st.heard) > letGo
}

// stays says whether st is a proven path that is to be tended; else it is
// forgotten when its time has come. Caller holds s.mu.
func (s *Session) stays(st *state, now time.Time) bool {
	switch {
	case !st.isProven():
		s.expire(st, now)
	case s.replaced(st, now):
		delete(s.paths.states, st.path)
	default:
		return true
	}
	return false
}
