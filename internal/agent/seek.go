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

// seekOther looks for other kinds of path, because the best one is bad.
func (as *association) seekOther() { as.seekFor(as.otherKinds) }

// seekFor looks for other kinds of path than those there are, because the best
// one is bad, or because a service may take none of them. Which of them data
// takes is for the session to measure.
func (as *association) seekFor(kindsOf func() (kinds []path.Kind, another bool)) {
	if as.raw != nil {
		return
	}
	if !as.initiator && (!path.Wait(as.ctx, seekPause) || as.answeredLately()) {
		return
	}
	kinds, another := kindsOf()
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
	have := as.haveKinds()
	kinds = slices.DeleteFunc(as.betterThan(path.None), have.Has)
	w := as.a.link.ways()
	another = slices.ContainsFunc(relayKinds, func(k path.Kind) bool {
		return !have.Has(k) && as.noRelay(k, w, climbing{another: true}) == nil
	})
	return kinds, another
}

// missing is otherKinds of those alone that services wait for.
func (as *association) missing() (kinds []path.Kind, another bool) {
	kinds, another = as.otherKinds()
	wanted := as.Starving()
	kinds = slices.DeleteFunc(kinds, func(k path.Kind) bool { return !wanted.Has(k) })
	return kinds, another && slices.ContainsFunc(relayKinds, wanted.Has)
}

// haveKinds is the kinds of the paths that work.
func (as *association) haveKinds() (have path.Kinds) {
	for _, r := range as.Paths() {
		if r.State == PathBest || r.State == PathSpare {
			have |= path.KindsOf(r.Kind)
		}
	}
	return have
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
