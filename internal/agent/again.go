package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"rendezvous/internal/ladder"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/proto"
)

// attempts is how many punches follow each other at once: the first from the
// main sockets, then two from new ports, which cures a 5-tuple that a NAT's
// connection tracking has poisoned. After that the waits grow.
const attempts = 3

const (
	againFirst = time.Minute
	againMost  = time.Hour
)

// punchAgain looks for a better direct path, from new ports each time, until
// there is none. Only the session's initiator does, so that two never cross. A
// direct path that died is reason to begin anew.
func (as *association) punchAgain(why string) {
	switch {
	case !as.initiator:
	case as.raw == nil:
		as.punchOn(why != "")
	case why != "":
		as.peer.rawAgain(as)
	}
}

func (as *association) punchOn(anew bool) {
	if !as.punches(anew) {
		return
	}
	defer as.punched()
	for as.ctx.Err() == nil {
		best := as.Best()
		kinds := as.betterThan(best)
		if len(kinds) == 0 {
			return
		}
		as.mu.Lock()
		as.search.attempt++
		n := as.search.attempt
		as.mu.Unlock()
		if n > attempts || best != path.None && !best.Relayed() {
			as.search.tried.give()
			if !as.pause(min(againFirst<<min(max(int(n)-attempts-1, 0), 10), againMost)) {
				continue
			}
			kinds = as.betterThan(as.Best())
		}
		if n == 2 {
			n = as.learned(n)
			kinds = as.likely(kinds, n)
		}
		err := as.again(as.ctx, n, kinds, false)
		as.learn(n)
		if err != nil && as.ctx.Err() == nil {
			as.peer.record(failedAttempt(err))
			if !path.Wait(as.ctx, time.Second) {
				return
			}
		}
	}
}

// likely is UDP alone where its next punch will very probably do, and else
// kinds. To find where new ports of TCP are seen takes each side a round trip
// more, one after the other; the punch that follows has them all.
func (as *association) likely(kinds []path.Kind, attempt uint32) []path.Kind {
	as.mu.Lock()
	theirs := as.heard.last
	as.mu.Unlock()
	if !slices.Contains(kinds, path.DirectUDP) || !as.a.link.ways().udp || theirs.behaviour == nil {
		return kinds // UDP does not pass on one side
	}
	switch as.planned(attempt).Name {
	case punch.Predict, punch.Unasked:
	case punch.Spray:
		if as.noSpray(theirs) != nil {
			return kinds
		}
	default:
		return kinds
	}
	return []path.Kind{path.DirectUDP}
}

// pause waits between punches; it is cut short, with false, where there is
// reason to begin anew.
func (as *association) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-as.search.anew:
	case <-as.ctx.Done():
	}
	return false
}

// punches says whether the caller is the one to punch; then it ends with
// punched.
func (as *association) punches(anew bool) bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	if anew {
		as.search.attempt = 1
	}
	busy := as.search.punching
	as.search.punching = true
	if busy && anew {
		notice(as.search.anew)
	}
	return !busy
}

func (as *association) punched() {
	as.search.tried.give()
	as.mu.Lock()
	as.search.punching = false
	as.mu.Unlock()
}

// betterThan is the kinds of direct path that both sides allow, that we are
// able to, and that are better than best.
func (as *association) betterThan(best path.Kind) []path.Kind {
	as.mu.Lock()
	theirs := as.heard.last
	as.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(directKinds), func(k path.Kind) bool {
		return best != path.None && k >= best || as.a.unable(k) != nil || !theirs.allows(k)
	})
}

// beyondUDP says whether other kinds of direct path may work where the first
// punch and the relay did not.
func (as *association) beyondUDP() bool {
	return as.raw == nil && slices.ContainsFunc(as.betterThan(path.None), func(k path.Kind) bool { return k != path.DirectUDP })
}

func failedAttempt(err error) ladder.Attempt {
	return ladder.Attempt{Kind: path.DirectUDP, Result: ladder.Failed, Reason: "not-introduced", Evidence: err.Error(),
		Advice: "a punch needs the coordinator for its timing; `agent status` says whether it is connected", Started: time.Now()}
}

// again is one fresh introduction within the session: new ports on both
// sides, their addresses exchanged sealed, and one instant to fire. another
// asks for a relay leg of another kind besides.
func (as *association) again(ctx context.Context, attempt uint32, kinds []path.Kind, another bool) error {
	return as.againWith(ctx, &proto.Again{Attempt: attempt}, kinds, another)
}

// againWith is again with a message that says more.
func (as *association) againWith(ctx context.Context, m *proto.Again, kinds []path.Kind, another bool) error {
	attempt := m.GetAttempt()
	as.mu.Lock()
	through := as.heard.last.passing
	as.mu.Unlock()
	o, err := as.openKinds(kinds, attempt, through)
	if err != nil {
		return err
	}
	defer o.close()
	wanted := append(slices.Clone(kinds), as.lacking(as.Best())...)
	f := freshening{mine: o.gather(ctx), ports: &freshPorts{openings: o, wanted: wanted}, attempt: attempt, another: another, target: as}
	m.Paths = o.names(kinds)
	return as.fresh(ctx, m, f)
}

// lacking is the kinds that would be better than best and that this agent is
// not able to climb: the record says why.
func (as *association) lacking(best path.Kind) []path.Kind {
	return slices.DeleteFunc(slices.Clone(directKinds), func(k path.Kind) bool {
		return as.a.unable(k) == nil || best != path.None && k >= best
	})
}

// freshening is our side of a fresh introduction.
type freshening struct {
	attempt uint32
	mine    gathered
	ports   *freshPorts // nil: the relay alone
	another bool        // a relay leg of another kind than those there are
	target  *association
}

// fresh carries an Again to the peer and climbs with its answer. The messages
// are sealed under the keys of as; the target is what gets the paths: as itself
// or a raw flow's child.
func (as *association) fresh(ctx context.Context, m *proto.Again, f freshening) error {
	body, err := as.sealAgain(m, f.mine)
	if err != nil {
		return err
	}
	// A spare wants a relay leg; so does a raw flow's own 5-tuple.
	relay := m.Attempt == 0 || f.another
	in, _, err := as.a.introduce(ctx, &proto.Introduce{To: as.peer.name, ToKey: as.peer.member().Key, Body: body, Fresh: true, WantRelay: relay})
	if err != nil {
		return err
	}
	answers := as.a.link.answers.expect(in.GetIntroduction())
	defer as.a.link.answers.forget(in.GetIntroduction())
	answer, err := await(ctx, answers, answerWithin)
	arrived := time.Now()
	if err != nil {
		return err
	}
	if why := answer.GetAnswer().GetDeclined(); why != "" {
		return fmt.Errorf("the peer declined: %s", ops.Plain(why))
	}
	reply, theirs, err := as.openAgain(answer.GetAnswer().GetBody())
	if err != nil {
		as.a.refusals.forged(as.peer, err)
		return err
	}
	if f.ports != nil {
		f.ports.agreed = kindsOf(reply.GetPaths())
	}
	f.target.setTheirs(theirs)
	f.target.climb(climbing{
		attempt: f.attempt, mine: f.mine, theirs: theirs, allocation: in.GetAllocation(), another: f.another, fresh: f.ports, near: near(m),
		fireAt: fireAt(arrived, answer.GetAnswer().GetFireAfterUs()),
		rtt:    as.a.link.peerRTT(in.GetPeerRttUs()),
	})
	return nil
}
