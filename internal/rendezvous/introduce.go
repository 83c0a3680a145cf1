package rendezvous

import (
	"bytes"
	"time"

	"rendezvous/proto"
)

func (s *Server) keepStanding(a *agentConn, m *proto.Standing) (messages, error) {
	if n := len(m.GetSealed()); n > maxStanding {
		return nil, tooLarge("a standing set of candidates", n, maxStanding)
	}
	s.present.setStanding(a.key, a, m)
	return done(), nil
}

func (s *Server) lookup(l *proto.Lookup) (messages, error) {
	m, err := s.registry.ByName(l.GetName())
	if err != nil {
		return nil, err
	}
	out, err := s.describe(m)
	if err != nil {
		return nil, err
	}
	return messages{{Body: &proto.ToAgent_Member{Member: out}}}, nil
}

// introduce tells the peer that a wants it, and a how the peer may be reached.
// Both messages leave at once, each with the time that its agent has to wait
// so that both fire at the same instant.
func (s *Server) introduce(now time.Time, a *agentConn, me attendance, ask *proto.Introduce) (messages, error) {
	if n := len(ask.GetBody()); n > maxOpening {
		return nil, tooLarge("an opening", n, maxOpening)
	}
	peer, err := s.findPeer(a, ask)
	if err != nil {
		return nil, err
	}
	if !s.present.mayIntroduce(now, a.key, peer.conn.key) {
		return nil, refusef(proto.Code_CODE_LIMITED, "too many introductions to %q; try again in some seconds", peer.name)
	}
	mine, err := s.registry.ByKey(a.key)
	if err != nil {
		return nil, err
	}
	if !mine.Admitted {
		return nil, refusef(proto.Code_CODE_BAD_REQUEST, "%q waits to be approved by a member; until then nobody is introduced to it", mine.Name)
	}
	from, err := s.describe(mine)
	if err != nil {
		return nil, err
	}
	in, err := s.introductions.begin(now, a.key, peer.conn.key, ask.GetFresh())
	if err != nil {
		return nil, err
	}
	rttA, rttB := a.roundTrip(), peer.conn.roundTrip()
	introduced := &proto.Introduced{Introduction: in.id, Standing: peer.standing, PeerRttUs: microseconds(rttB)}
	offer := &proto.Offer{Introduction: in.id, From: from, Body: ask.GetBody(), Fresh: in.fresh, PeerRttUs: microseconds(rttA)}
	if ask.GetWantRelay() {
		introduced.Allocation, offer.Allocation = s.allocate(now, me, peer)
	}
	if !in.fresh {
		afterA, afterB := fireAfter(rttA, rttB)
		introduced.Fire, introduced.FireAfterUs = true, microseconds(min(afterA, maxFireAfter))
		offer.Fire, offer.FireAfterUs = true, microseconds(min(afterB, maxFireAfter))
	}
	// Were the offer first, the peer's answer might overtake what it answers.
	a.reader.behind = func() { peer.conn.send(&proto.ToAgent{Body: &proto.ToAgent_Offer{Offer: offer}}) }
	return messages{{Body: &proto.ToAgent_Introduced{Introduced: introduced}}}, nil
}

func (s *Server) findPeer(a *agentConn, ask *proto.Introduce) (attendance, error) {
	m, err := s.registry.ByName(ask.GetTo())
	if err != nil {
		return attendance{}, err
	}
	if !bytes.Equal(m.Key, ask.GetToKey()) {
		return attendance{}, refusef(proto.Code_CODE_KEY_CHANGED, "%q has another key now: it joined again, or another agent took its name; look it up again", m.Name)
	}
	key, _ := keyOf(m.Key)
	if key == a.key {
		return attendance{}, refusef(proto.Code_CODE_BAD_REQUEST, "%q asked for itself; dial the service's own address instead", m.Name)
	}
	peer, ok := s.present.find(key)
	if !ok {
		return attendance{}, refusef(proto.Code_CODE_PEER_OFFLINE, "%q is not connected to the coordinator; is its agent up?", m.Name)
	}
	return peer, nil
}

// allocate is a relay for both, or none when the relay is full: the agents
// then do with a direct path.
func (s *Server) allocate(now time.Time, a, b attendance) (forA, forB *proto.Allocation) {
	alloc, err := s.relay.Allocate(now, a.name, b.name)
	if err != nil {
		return nil, nil // counted by the relay
	}
	leg := func(i int, to attendance) *proto.Allocation {
		return &proto.Allocation{
			Id:    alloc.ID[:],
			Leg:   uint32(i),
			Key:   alloc.Keys[i][:],
			Relay: s.endpoints(to.conn.spot, to.conn.remote.Addr()),
		}
	}
	return leg(0, a), leg(1, b)
}

// reply carries the offered agent's answer back. In a fresh introduction both
// sides have their new ports by now, and get the instant to fire.
func (s *Server) reply(a *agentConn, r *proto.Reply) (messages, error) {
	if n := len(r.GetBody()); n > maxOpening {
		return nil, tooLarge("an opening", n, maxOpening)
	}
	declined := r.GetDeclined()
	if len(declined) > maxText {
		declined = declined[:maxText]
	}
	in, ok := s.introductions.answer(r.GetIntroduction(), a.key, declined != "")
	if !ok {
		return nil, refusef(proto.Code_CODE_BAD_REQUEST, "no introduction waits for this answer; it came too late")
	}
	from, ok := s.present.find(in.from)
	if !ok {
		return nil, refusef(proto.Code_CODE_PEER_OFFLINE, "the agent that asked is no longer connected")
	}
	answer := &proto.Answer{Introduction: in.id, Body: r.GetBody(), Declined: declined}
	out := done()
	if in.fresh && declined == "" {
		afterA, afterB := fireAfter(from.conn.roundTrip(), a.roundTrip())
		answer.Fire, answer.FireAfterUs = true, microseconds(min(afterA, maxFireAfter))
		out = append(out, &proto.ToAgent{Body: &proto.ToAgent_Go{
			Go: &proto.Go{Introduction: in.id, FireAfterUs: microseconds(min(afterB, maxFireAfter))},
		}})
	}
	from.conn.send(&proto.ToAgent{Body: &proto.ToAgent_Answer{Answer: answer}})
	return out, nil
}

// unanswered tells those who asked that nobody will answer.
func (s *Server) unanswered(dropped []introduction, why string) {
	for _, in := range dropped {
		if from, ok := s.present.find(in.from); ok {
			from.conn.send(&proto.ToAgent{Body: &proto.ToAgent_Answer{
				Answer: &proto.Answer{Introduction: in.id, Declined: why},
			}})
		}
	}
}
