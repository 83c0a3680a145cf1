package agent

import (
	"slices"
	"time"

	"rendezvous/internal/ladder"
	"rendezvous/internal/path"
)

// seekPause is how long the agent that did not begin the session lets the
// other look for other paths first: both see a long round trip, each only the
// loss of what it sends itself.
const seekPause = time.Second

// seekOther looks for other kinds of path than those there are, because the
// best one is bad. Which of them data takes is for the session to measure.
func (as *association) seekOther() {
	if as.raw != nil {
		return
	}
	if !as.initiator && (!path.Wait(as.ctx, seekPause) || as.answeredLately()) {
		return
	}
	kinds, another := as.otherKinds()
	as.mu.Lock()
	busy, n := as.search.seeking, max(as.search.attempt, 1)
	as.search.seeking = true
	as.mu.Unlock()
	if busy {
		return
	}
	defer func() {
		as.mu.Lock()
		as.search.seeking = false
		as.mu.Unlock()
	}()
	if len(kinds) == 0 && !another {
		return
	}
	if err := as.again(as.ctx, n, kinds, another); err != nil && as.ctx.Err() == nil {
		as.peer.record(failedAttempt(err))
	}
}

// otherKinds is the kinds of direct path that both sides can climb and that
// there is none of, and whether our leg could take another transport.
func (as *association) otherKinds() (kinds []path.Kind, another bool) {
	have := make(map[path.Kind]bool)
	for _, r := range as.Paths() {
		have[r.Kind] = have[r.Kind] || r.State == PathBest || r.State == PathSpare
	}
	kinds = slices.DeleteFunc(as.betterThan(path.None), func(k path.Kind) bool { return have[k] })
	w := as.a.link.ways()
	another = slices.ContainsFunc(relayKinds, func(k path.Kind) bool {
		return !have[k] && as.noRelay(k, w, climbing{another: true}) == nil
	})
	return kinds, another
}

func (as *association) answeredAgain() {
	as.mu.Lock()
	as.search.sought = time.Now()
	as.mu.Unlock()
}

// answeredLately says whether the peer has looked for paths a moment ago.
func (as *association) answeredLately() bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	return !as.search.sought.IsZero() && time.Since(as.search.sought) < 5*seekPause
}

// outdone records why data has left a path that works.
func (as *association) outdone() {
	v := as.Outdone()
	as.peer.record(ladder.Attempt{
		Kind: v.Kind, Result: ladder.Failed, Reason: "degraded", Evidence: v.String(), Started: v.At,
		Advice: "nothing to do: it is measured again from time to time, and taken when it is better; `degraded` in agent.yaml has the thresholds",
	})
}
