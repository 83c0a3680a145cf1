package session

import (
	"net/netip"
	"time"

	"rendezvous/internal/path"
)

// The states of a path in a Report.
const (
	StateBest   = "best"
	StateSpare  = "spare"
	StateFailed = "failed"
	StateTrying = "trying"
)

// Report is what is known of one path, for status.
type Report struct {
	Path     path.Path
	Kind     path.Kind
	State    string
	RTT      time.Duration
	Loss     float64   // of the best: of our data; of others, of both ways as it was last measured
	Outdone  bool      // measured to be worse than one of a lower kind
	Tx, Rx   uint64    // datagrams of data and control that took it: ours, and the peer's that we opened
	MTU      int       // largest payload that crosses whole
	Since    time.Time // when data began to take it; of the others, when it was first tried
	Observed netip.AddrPort
}

// Paths reports the paths, the best first.
func (s *Session) Paths() []Report {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Report
	for _, st := range s.paths.states {
		r := Report{Path: st.path, Kind: st.kind, RTT: st.answer.rtt, Loss: st.answer.loss.loss, Outdone: st.outdone.is, Tx: st.tx.Load(), Rx: st.rx,
			MTU: service(st.size.mtu, s.cfg.Raw), Since: st.since, Observed: st.observed}
		switch {
		case st == s.paths.best:
			r.State, r.Since = StateBest, st.chosen
		case st.usable():
			r.State, r.Loss = StateSpare, st.trial.loss
			if st.outdone.is {
				r.Loss = max(st.answer.loss.loss, st.trial.loss)
			}
		case st.dead:
			r.State = StateFailed
		default:
			r.State = StateTrying
		}
		if st == s.paths.best {
			out = append([]Report{r}, out...)
		} else {
			out = append(out, r)
		}
	}
	return out
}

// Best is the kind of the path that data takes, None without one.
func (s *Session) Best() path.Kind {
	if r := s.route.Load(); r != nil {
		return r.kind
	}
	return path.None
}
