package rendezvous

import (
	"time"

	"rendezvous/proto"
)

// Bounds of what agents send, in bytes. The largest real ones: a record 300, a
// standing set of candidates and an opening below 4 KiB.
const (
	maxStanding = 8 << 10
	maxOpening  = 16 << 10
	maxRecord   = 2 << 10
	maxSecret   = 1 << 10
	maxVersion  = 64
	maxToken    = 16
	maxText     = 200
)

// Bounds of lists, so that they fit into one message.
const (
	maxListed  = 64
	maxRevoked = 100 // in Registered; the rest follow one by one
)

// messages are what a request brings its sender: first the answer, when there
// is one, then events.
type messages []*proto.ToAgent

// serve does what one message asks.
func (s *Server) serve(now time.Time, a *agentConn, m *proto.ToCoordinator) (messages, error) {
	switch b := m.GetBody().(type) {
	case nil: // a heartbeat
		return done(), nil
	case *proto.ToCoordinator_Lean:
		return s.goLean(now, a)
	case *proto.ToCoordinator_Enrol:
		return s.enrol(now, a, b.Enrol)
	case *proto.ToCoordinator_Register:
		return s.register(now, a, b.Register)
	}
	me, ok := s.present.find(a.key)
	if !ok || me.conn != a {
		return nil, refusef(proto.Code_CODE_NOT_ENROLLED, "this agent has not registered on this connection")
	}
	switch b := m.GetBody().(type) {
	case *proto.ToCoordinator_Standing:
		return s.keepStanding(a, b.Standing)
	case *proto.ToCoordinator_Lookup:
		return s.lookup(b.Lookup)
	case *proto.ToCoordinator_Introduce:
		out, err := s.introduce(now, a, me, b.Introduce)
		if err != nil {
			s.introductions.refuse()
		}
		return out, err
	case *proto.ToCoordinator_Reply:
		return s.reply(a, b.Reply)
	case *proto.ToCoordinator_Release:
		return s.release(now, a, b.Release)
	}
	return s.serveMember(now, a, m)
}

// serveMember does what only members may ask who decide on others.
func (s *Server) serveMember(now time.Time, a *agentConn, m *proto.ToCoordinator) (messages, error) {
	member, err := s.registry.ByKey(a.key)
	if err != nil {
		return nil, err
	}
	if !member.Admitted {
		return nil, refusef(proto.Code_CODE_BAD_REQUEST, "%q waits to be approved itself; ask another member", member.Name)
	}
	switch b := m.GetBody().(type) {
	case *proto.ToCoordinator_CreateInvite:
		return s.createInvite(now, member, b.CreateInvite)
	case *proto.ToCoordinator_ListPending:
		return s.listPending()
	case *proto.ToCoordinator_Approve:
		return s.approve(member, b.Approve)
	case *proto.ToCoordinator_Revoke:
		return s.revoke(now, a.key, member, b.Revoke)
	case *proto.ToCoordinator_Publish:
		return s.publish(now, a, member, b.Publish)
	}
	return nil, refusef(proto.Code_CODE_BAD_REQUEST, "the coordinator does not know this request; is it older than the agent?")
}

// goLean makes the connection that takes this one's place. Where there can be
// none, the agent stays on this one.
func (s *Server) goLean(now time.Time, a *agentConn) (messages, error) {
	if a.lean == nil {
		return nil, refusef(proto.Code_CODE_BAD_REQUEST, "only a new QUIC connection can be left for a lean one")
	}
	leaned, err := a.lean(now)
	if err != nil {
		return nil, err
	}
	a.lean = nil
	return messages{{Body: &proto.ToAgent_Leaned{Leaned: leaned}}}, nil
}

func done() messages { return messages{{Body: &proto.ToAgent_Done{Done: &proto.Done{}}}} }

func tooLarge(what string, n, limit int) error {
	return refusef(proto.Code_CODE_BAD_REQUEST, "%s of %d bytes is over the limit of %d", what, n, limit)
}

func checkSigned(what string, s *proto.Signed) error {
	if n := len(s.GetBody()) + len(s.GetSigner()) + len(s.GetSignature()) + len(s.GetMac()); n > maxRecord {
		return tooLarge(what, n, maxRecord)
	}
	return nil
}
