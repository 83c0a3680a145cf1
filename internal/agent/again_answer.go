package agent

import (
	"context"
	"errors"
	"slices"
	"time"

	"rendezvous/internal/path"
	"rendezvous/proto"
)

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
	m, theirs, err := s.openAgain(o.GetBody())
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
	if m.GetRenews() && target == s {
		s.peer.renewRaws(time.Now(), true)
	}
	return s.answerAgain(ctx, o, m, theirs, target)
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

func (as *association) answerAgain(ctx context.Context, o *proto.Offer, m *proto.Again, theirs offered, target *association) error {
	as.answeredAgain()
	f := freshening{attempt: m.GetAttempt(), target: target, another: m.GetAttempt() > 0 && m.GetRaw() == nil}
	reply := &proto.Again{Attempt: m.GetAttempt(), Raw: m.GetRaw()}
	if m.GetAttempt() > 0 || m.GetRaw() != nil {
		asked := kindsOf(m.GetPaths())
		able := slices.DeleteFunc(slices.Clone(asked), func(k path.Kind) bool { return as.a.unable(k) != nil || !theirs.allows(k) })
		ports, err := target.openKinds(able, m.GetAttempt(), theirs.passing)
		if err != nil {
			return err
		}
		defer ports.close()
		target.Check() // the peer's path may have died: look at ours
		if m.GetRenews() && slices.Contains(able, path.DirectUDP) {
			target.Renew(path.DirectUDP)
		}
		f.mine = ports.gather(ctx)
		f.ports = &freshPorts{openings: ports, wanted: asked, agreed: able}
		reply.Paths = ports.names(able)
	}
	body, err := as.sealAgain(reply, f.mine)
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
	target.setTheirs(theirs)
	target.climb(climbing{
		attempt: f.attempt, mine: f.mine, theirs: theirs, allocation: o.GetAllocation(), another: f.another, fresh: f.ports, near: near(m),
		fireAt: at, rtt: as.a.link.peerRTT(o.GetPeerRttUs()),
	})
	return nil
}
