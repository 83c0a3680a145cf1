package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"rendezvous/internal/ladder"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
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

// punchAgain looks for a direct path, from new ports each time, until there is
// one. Only the session's initiator does, so that two never cross. A direct
// path that died is reason to begin anew.
func (as *association) punchAgain(why string) {
	switch {
	case !as.initiator || !as.a.allows(path.DirectUDP):
	case as.raw == nil:
		as.punchOn(why != "")
	case why != "":
		as.peer.rawAgain(as)
	}
}

func (as *association) punchOn(anew bool) {
	as.mu.Lock()
	if anew {
		as.attempt = 1
	}
	busy := as.punching
	as.punching = true
	as.mu.Unlock()
	if busy {
		return
	}
	defer func() {
		as.mu.Lock()
		as.punching = false
		as.mu.Unlock()
	}()
	for as.Best() != path.DirectUDP && as.ctx.Err() == nil {
		as.mu.Lock()
		as.attempt++
		n := as.attempt
		as.mu.Unlock()
		if n > attempts && !path.Wait(as.ctx, min(againFirst<<min(n-attempts-1, 10), againMost)) {
			return
		}
		if err := as.again(as.ctx, n); err != nil && as.ctx.Err() == nil {
			as.peer.record(failedAttempt(err))
			if !path.Wait(as.ctx, time.Second) {
				return
			}
		}
	}
}

func failedAttempt(err error) ladder.Attempt {
	return ladder.Attempt{Kind: path.DirectUDP, Result: ladder.Failed, Reason: "not-introduced", Evidence: err.Error(),
		Advice: "a punch needs the coordinator for its timing; `agent status` says whether it is connected", Started: time.Now()}
}

// again is one fresh introduction within the session: new sockets on both
// sides, their addresses exchanged sealed, and one instant to fire.
func (as *association) again(ctx context.Context, attempt uint32) error {
	endpoints, err := as.open()
	if err != nil {
		return err
	}
	defer as.discard(endpoints)
	mine := as.a.gather(ctx, endpoints)
	return as.fresh(ctx, &proto.Again{Attempt: attempt}, mine, endpoints, as)
}

// Waits before a session without a relay leg asks for one again.
const (
	spareFirst = 10 * time.Second
	spareMost  = 5 * time.Minute
)

// needSpare asks for another allocation if it is for us to do, without a
// punch.
func (as *association) needSpare() {
	if as.initiator && as.raw == nil && as.a.relayAllowed() && as.a.link.current() != nil {
		as.a.tasks.start(as.fetchSpare)
	}
}

// spareDue says whether the session has no relay leg and its last attempt to
// get one is long enough ago.
func (as *association) spareDue(now time.Time) bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	return len(as.legs) == 0 && now.Sub(as.spare.at) > as.spare.wait
}

// fetchSpare is called when the relay forgot our leg, whenever the coordinator
// is back, and again until there is one.
func (as *association) fetchSpare(ctx context.Context) {
	as.mu.Lock()
	idle := len(as.legs) == 0 && !as.spare.busy && !as.closed
	if idle {
		as.spare.busy = true
	}
	as.mu.Unlock()
	if !idle {
		return
	}
	// Why not is in the log of attempts, or comes again.
	_ = as.fresh(ctx, &proto.Again{}, gathered{}, nil, as)
	as.mu.Lock()
	defer as.mu.Unlock()
	as.spare.busy, as.spare.at = false, time.Now()
	if as.spare.wait = min(2*as.spare.wait, spareMost); len(as.legs) > 0 {
		as.spare.wait = spareFirst
	}
}

// fresh carries an Again to the peer and climbs with its answer. The messages
// are sealed under the keys of as; target is what gets the paths: as itself or
// a raw flow's child.
func (as *association) fresh(ctx context.Context, m *proto.Again, mine gathered, endpoints []*endpoint, target *association) error {
	body, err := as.sealAgain(m, mine)
	if err != nil {
		return err
	}
	// A spare wants a relay leg; so does a raw flow's own 5-tuple.
	relay := m.Attempt == 0
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
	_, theirs, err := as.openAgain(answer.GetAnswer().GetBody())
	if err != nil {
		as.a.refusals.forged(as.peer, err)
		return err
	}
	target.setTheirs(theirs)
	target.climb(climbing{
		mine: mine, theirs: theirs, allocation: in.GetAllocation(), endpoints: endpoints, fresh: true,
		fireAt: fireAt(arrived, answer.GetAnswer().GetFireAfterUs()),
		rtt:    as.a.link.peerRTT(in.GetPeerRttUs()),
	})
	return nil
}

func (as *association) sealAgain(m *proto.Again, mine gathered) ([]byte, error) {
	key := as.Export()
	if key == nil {
		return nil, errors.New("the session has no keys yet")
	}
	signed, err := as.a.signCandidates(mine)
	if err != nil {
		return nil, err
	}
	m.Candidates = signed
	plain, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	token := as.PeerToken()
	return proto.Marshal(&proto.Opening{Body: &proto.Opening_Sealed{Sealed: &proto.Sealed{
		Token: token[:], Sealed: seal.SealMessage(*key, plain),
	}}})
}

// openAgain opens an Again of the peer. A coordinator can't serve one
// twice: each has candidates of another time.
func (as *association) openAgain(body []byte) (*proto.Again, offered, error) {
	var opening proto.Opening
	if err := proto.Unmarshal(body, &opening); err != nil {
		return nil, offered{}, err
	}
	key := as.Export()
	if key == nil {
		return nil, offered{}, errors.New("the session has no keys yet")
	}
	plain, err := seal.OpenMessage(*key, opening.GetSealed().GetSealed())
	if err != nil {
		return nil, offered{}, fmt.Errorf("%w (%w)", errForged, err)
	}
	var m proto.Again
	if err := proto.Unmarshal(plain, &m); err != nil {
		return nil, offered{}, err
	}
	theirs, err := as.a.readCandidates(m.GetCandidates(), as.peer.member())
	if err != nil {
		return nil, offered{}, err
	}
	if !as.unseen(theirs.made) {
		return nil, offered{}, errors.New("these candidates were seen before or are too old: a replay")
	}
	return &m, theirs, nil
}

// maxOffers is how many candidates' times are remembered against replays.
const maxOffers = 128

// unseen says whether candidates of that time did not come before. Several
// introductions may overtake each other, so newer alone would not do.
func (as *association) unseen(made time.Time) bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	if slices.Contains(as.offers, made) || len(as.offers) == maxOffers && made.Before(as.offers[0]) {
		return false
	}
	as.offers = append(as.offers, made)
	slices.SortFunc(as.offers, time.Time.Compare)
	if len(as.offers) > maxOffers {
		as.offers = as.offers[1:]
	}
	return true
}

// offeredAgain answers a fresh introduction: it opens new sockets, tells where
// they are, and fires when the coordinator says.
func (a *Agent) offeredAgain(ctx context.Context, o *proto.Offer, sealed *proto.Sealed) error {
	s := a.associationOf(sealed.GetToken())
	if s == nil {
		return errors.New("no such session any more")
	}
	if !s.peer.offers.Allow() {
		return errTooMany
	}
	m, _, err := s.openAgain(o.GetBody())
	if err != nil {
		return err
	}
	target := s
	if m.GetRaw() != nil {
		if target, err = s.peer.offeredRaw(m.GetRaw()); err != nil {
			return err
		}
		defer s.peer.settleRaw(target)
	}
	return s.answerAgain(ctx, o, m, target)
}

// associationOf finds the session that a peer names by our token.
func (a *Agent) associationOf(token []byte) *association {
	for _, p := range a.peers.all() {
		if as := p.association(); as != nil {
			if mine := as.Token(); string(mine[:]) == string(token) {
				return as
			}
		}
	}
	return nil
}

func (as *association) answerAgain(ctx context.Context, o *proto.Offer, m *proto.Again, target *association) error {
	var endpoints []*endpoint
	var mine gathered
	if m.GetAttempt() > 0 || m.GetRaw() != nil {
		var err error
		if endpoints, err = target.open(); err != nil {
			return err
		}
		defer target.discard(endpoints)
		target.Check() // the peer's path may have died: look at ours
		mine = as.a.gather(ctx, endpoints)
	}
	body, err := as.sealAgain(&proto.Again{Attempt: m.GetAttempt(), Raw: m.GetRaw()}, mine)
	if err != nil {
		return err
	}
	goes := as.a.link.answers.expect(o.GetIntroduction())
	defer as.a.link.answers.forget(o.GetIntroduction())
	if err := as.a.link.reply(o.GetIntroduction(), body); err != nil {
		return err
	}
	fire, err := await(ctx, goes, answerWithin)
	if err != nil {
		return err
	}
	at := fireAt(time.Now(), fire.GetGo().GetFireAfterUs())
	theirs, err := as.a.readCandidates(m.GetCandidates(), as.peer.member())
	if err != nil {
		return err
	}
	target.setTheirs(theirs)
	target.climb(climbing{
		mine: mine, theirs: theirs, allocation: o.GetAllocation(), endpoints: endpoints, fresh: true,
		fireAt: at, rtt: as.a.link.peerRTT(o.GetPeerRttUs()),
	})
	return nil
}
