package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// answerWithin bounds the peer's answer to an introduction: it gathers its
// addresses, two slow mobile links lie between, and one message is lost.
const answerWithin = 5 * time.Second

// errBothBegan is why an agent declines: it began an introduction itself, and
// of two that cross, that of the lower name counts.
var errBothBegan = errors.New("both began")

// join makes a session: the handshake rides on the introduction, and both
// sides probe as soon as they know each other's candidates.
func (p *peer) join(ctx context.Context, reason string) error {
	secret, ok := p.a.cfg.State.Secret()
	if !ok {
		return errWaiting
	}
	info, err := p.identify(ctx)
	if err != nil {
		return err
	}
	seed := make([]byte, 32)
	if _, err := rand.Read(seed); err != nil {
		return err
	}
	mine := p.a.standing(ctx)
	hello, err := p.a.hello(mine, seed, reason)
	if err != nil {
		return err
	}
	hand, message, err := seal.Initiate(p.a.id, info.Static, secret, hello)
	if err != nil {
		return err
	}
	as := p.newAssociation(seal.DeriveProbeKeys(seed, secret, true), true, nil)
	if err := p.introduced(ctx, as, info, mine, hand, message); err != nil {
		p.drop(as)
		return err
	}
	return nil
}

func (a *Agent) hello(g gathered, seed []byte, reason string) ([]byte, error) {
	signed, err := a.signCandidates(g)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(&proto.Hello{
		TimestampNs: a.cfg.State.HandshakeTime(time.Now()).UnixNano(), ProbeSeed: seed, Candidates: signed, Instance: a.instance, Reason: reason,
	})
}

// introduced asks for the introduction and sees it through: the climb begins
// with the peer's standing candidates and takes up those of its answer.
func (p *peer) introduced(ctx context.Context, as *association, info Peer, mine gathered, hand *seal.Initiator, message []byte) error {
	body, err := proto.Marshal(&proto.Opening{Body: &proto.Opening_Handshake{Handshake: message}})
	if err != nil {
		return err
	}
	in, arrived, err := p.a.introduce(ctx, &proto.Introduce{To: p.name, ToKey: info.Key, Body: body, WantRelay: true})
	if err != nil {
		return err
	}
	answers := p.a.link.answers.expect(in.GetIntroduction())
	defer p.a.link.answers.forget(in.GetIntroduction())

	more := make(chan []netip.AddrPort, 1)
	c := climbing{
		mine: mine, allocation: in.GetAllocation(), mains: p.a.mains, more: more,
		fireAt: fireAt(arrived, in.GetFireAfterUs()), rtt: p.a.link.peerRTT(in.GetPeerRttUs()),
	}
	if theirs, err := p.standing(in.GetStanding(), info); err != nil {
		p.a.refusals.forged(p, err)
	} else {
		c.theirs = theirs
	}
	c.punched = newSignal()
	done := make(chan struct{})
	p.a.tasks.start(func(context.Context) { defer close(done); as.climb(c) })

	answer, err := await(ctx, answers, answerWithin)
	if err == nil {
		err = p.finish(as, info, hand, answer, more)
	}
	if err == nil && (as.learned(1) > 1 || punch.PlanFor(mine.behaviour, as.theirBehaviour(c.theirs), true, 1).Name != punch.Plain) {
		c.punched.give() // the main sockets' ports lead nowhere
	}
	close(more)
	if err != nil {
		p.drop(as)
		<-done
		return fmt.Errorf("introduction to %q: %w", p.name, err)
	}
	// The relay may take longer, and new ports need not wait for it.
	p.a.tasks.start(func(context.Context) {
		<-c.punched.ctx.Done()
		as.learn(1)
		as.punchAgain("")
	})
	<-done
	if !as.Ready() && as.beyondUDP() {
		select {
		case <-as.search.tried.ctx.Done():
		case <-as.ctx.Done():
		}
	}
	if !as.Ready() {
		p.ended(as, "no path worked")
		return fmt.Errorf("introduction to %q: no path worked; `agent explain %s` says what was tried", p.name, p.name)
	}
	return nil
}

// What the coordinator says about time is not signed by anybody. Within these
// bounds a wrong figure costs a moment, not the session: coordinators hold an
// agent back by half a second at most, and no link takes longer.
const (
	maxFireAfter = time.Second
	maxRTT       = 3 * time.Second
)

// fireAt is the instant to fire, counted from when the coordinator's message
// arrived.
func fireAt(arrived time.Time, us uint32) time.Time {
	return arrived.Add(min(micros(us), maxFireAfter))
}

// peerRTT estimates the round trip to the peer: at most as long as that by way
// of the coordinator.
func (l *link) peerRTT(us uint32) time.Duration { return min(l.rtt()+micros(us), maxRTT) }

func micros(us uint32) time.Duration { return time.Duration(us) * time.Microsecond }

// standing opens what the coordinator holds of the peer's candidates.
func (p *peer) standing(s *proto.Standing, info Peer) (offered, error) {
	if len(s.GetSealed()) == 0 {
		return offered{}, nil
	}
	secret, ok := p.a.cfg.State.Secret()
	if !ok {
		return offered{}, errWaiting
	}
	plain, err := seal.OpenStanding(secret, s.GetSealed())
	if err != nil {
		return offered{}, fmt.Errorf("standing candidates of %q: %w", p.name, err)
	}
	var signed proto.Signed
	if err := proto.Unmarshal(plain, &signed); err != nil {
		return offered{}, fmt.Errorf("standing candidates of %q: %w", p.name, err)
	}
	o, err := p.a.readCandidates(&signed, info)
	if err == nil && time.Since(o.made) > standingFor {
		return offered{}, nil // those of the answer will do
	}
	return o, err
}

// standingFor is how old standing candidates may be: the coordinator could keep
// some from when the peer was elsewhere. Agents leave new ones four times as
// often. A clock that is off by more costs a round trip, no more.
const standingFor = 24 * time.Hour

// finish takes the peer's half of the handshake.
func (p *peer) finish(as *association, info Peer, hand *seal.Initiator, answer *proto.ToAgent, more chan<- []netip.AddrPort) error {
	m := answer.GetAnswer()
	if m.GetDeclined() != "" {
		if m.GetDeclined() == errBothBegan.Error() {
			return fmt.Errorf("the peer declined: %w", errBothBegan)
		}
		return fmt.Errorf("the peer declined: %s", ops.Plain(m.GetDeclined()))
	}
	var opening proto.Opening
	if err := proto.Unmarshal(m.GetBody(), &opening); err != nil {
		return err
	}
	keys, payload, err := hand.Finish(opening.GetHandshake())
	if err != nil {
		p.a.refusals.forged(p, err)
		return fmt.Errorf("%w (%w)", errForged, err)
	}
	var reply proto.HelloAnswer
	if err := proto.Unmarshal(payload, &reply); err != nil {
		return err
	}
	theirs, err := p.a.readCandidates(reply.GetCandidates(), info)
	if err != nil {
		p.a.refusals.forged(p, err)
		return err
	}
	as.setTheirs(theirs)
	as.Establish(keys)
	p.adopt(as)
	p.serve(as)
	more <- theirs.addrs
	return nil
}

// errTooMany is the answer to a member that would have us probe without end.
var errTooMany = errors.New("too many introductions from this member in the last minute")

// knock is a peer's first handshake message, verified.
type knock struct {
	p      *peer
	hand   *seal.Responder
	hello  *proto.Hello
	theirs offered
	secret seal.Secret
}

// readKnock verifies an offer all through: a member's, made by the key of its
// record, with candidates that it signed, and newer than any before.
func (a *Agent) readKnock(o *proto.Offer, message []byte) (*knock, error) {
	secret, ok := a.cfg.State.Secret()
	if !ok {
		return nil, errWaiting
	}
	info, err := a.readMember(o.GetFrom())
	if err != nil {
		return nil, err
	}
	k := &knock{p: a.peer(info.Name), hello: &proto.Hello{}, secret: secret}
	if k.p.yields() {
		return nil, errBothBegan
	}
	if !k.p.offers.Allow() {
		return nil, errTooMany
	}
	if k.hand, err = seal.Respond(a.id, secret, message); err != nil {
		return nil, fmt.Errorf("%w (%w)", errForged, err)
	}
	if string(k.hand.PeerStatic) != string(info.Static) {
		return nil, errForged
	}
	if err := proto.Unmarshal(k.hand.Payload, k.hello); err != nil {
		return nil, err
	}
	if len(k.hello.GetProbeSeed()) != 32 {
		return nil, errors.New("the handshake has no seed for probes")
	}
	if k.theirs, err = a.readCandidates(k.hello.GetCandidates(), info); err != nil {
		return nil, err
	}
	if !a.cfg.State.AdvanceHandshake(info.Key, time.Unix(0, k.hello.GetTimestampNs())) {
		return nil, errors.New("this handshake is not newer than the last one of this member: a replay, or a clock that went back")
	}
	return k, nil
}

// answer is the second handshake message, and the keys of both.
func (k *knock) answer(a *Agent, mine gathered) (body []byte, keys seal.Keys, err error) {
	signed, err := a.signCandidates(mine)
	if err != nil {
		return nil, keys, err
	}
	payload, err := proto.Marshal(&proto.HelloAnswer{Candidates: signed, Instance: a.instance})
	if err != nil {
		return nil, keys, err
	}
	reply, keys, err := k.hand.Finish(payload)
	if err != nil {
		return nil, keys, err
	}
	body, err = proto.Marshal(&proto.Opening{Body: &proto.Opening_Handshake{Handshake: reply}})
	return body, keys, err
}

// offeredHandshake answers a peer that wants a session.
func (a *Agent) offeredHandshake(ctx context.Context, o *proto.Offer, message []byte, arrived time.Time) error {
	k, err := a.readKnock(o, message)
	if err != nil {
		return err
	}
	mine := a.standing(ctx)
	body, keys, err := k.answer(a, mine)
	if err != nil {
		return err
	}
	as := k.p.newAssociation(seal.DeriveProbeKeys(k.hello.GetProbeSeed(), k.secret, false), false, nil)
	as.setTheirs(k.theirs)
	as.Establish(keys)
	if err := a.link.reply(o.GetIntroduction(), body); err != nil {
		k.p.drop(as)
		return err
	}
	k.p.adopt(as)
	as.climb(climbing{
		mine: mine, theirs: k.theirs, allocation: o.GetAllocation(), mains: a.mains,
		fireAt: fireAt(arrived, o.GetFireAfterUs()), rtt: a.link.peerRTT(o.GetPeerRttUs()),
	})
	switch {
	case as.Best() == path.None && !(as.beyondUDP() && as.becomesReady()):
		k.p.ended(as, "no path worked")
	case !as.Confirmed() && path.Wait(as.ctx, answerWithin) && !as.Confirmed():
		k.p.ended(as, "our answer did not reach the peer")
	}
	return nil
}

// becomesReady waits for what the peer finds from new ports, where the first
// punch and the relay came to nothing.
func (as *association) becomesReady() bool {
	for time.Since(as.began) < longYouth && as.Best() == path.None {
		if !path.Wait(as.ctx, youth/10) {
			return false
		}
	}
	return as.Best() != path.None
}

// yields says whether an introduction of ours that is under way goes before
// the peer's: that of the lower name does.
func (p *peer) yields() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tries.joining && p.a.cfg.State.Name() < p.name
}

// introduce asks the coordinator; arrived is when its answer came, from which
// the instant to fire is counted.
func (a *Agent) introduce(ctx context.Context, m *proto.Introduce) (*proto.Introduced, time.Time, error) {
	m.WantRelay = m.WantRelay && a.relayAllowed()
	answer, err := a.link.call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_Introduce{Introduce: m}})
	arrived := time.Now()
	if err != nil {
		return nil, arrived, err
	}
	if answer.GetIntroduced() == nil {
		return nil, arrived, errors.New("the coordinator answered an introduction with something else")
	}
	return answer.GetIntroduced(), arrived, nil
}
