package rendezvous

import (
	"bytes"
	"time"

	"rendezvous/internal/ops"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

func (s *Server) enrol(now time.Time, a *agentConn, e *proto.Enrol) (messages, error) {
	if err := checkSigned("a membership record", e.GetRecord()); err != nil {
		return nil, err
	}
	if len(e.GetToken()) != maxToken {
		return nil, refusef(proto.Code_CODE_INVITE_UNKNOWN, "the invite's token has %d bytes, not %d; copy the join link again", len(e.GetToken()), maxToken)
	}
	m, err := s.registry.Enrol(now, a.key, e)
	if err != nil {
		return nil, err
	}
	a.reader.known = true
	s.log.Info().Str("agent", m.Name).Str("key", seal.Fingerprint(m.Key)).Stringer("from", a.remote).
		Bool("founder", m.Founder).Bool("admitted", m.Admitted).Msg("enrolled")
	return messages{{Body: &proto.ToAgent_Enrolled{Enrolled: &proto.Enrolled{Name: m.Name, Founder: m.Founder}}}}, nil
}

func (s *Server) register(now time.Time, a *agentConn, r *proto.Register) (messages, error) {
	m, err := s.registry.ByKey(a.key)
	if err != nil {
		return nil, err
	}
	if err := checkRegister(a.key, m, r); err != nil {
		return nil, err
	}
	if err := s.registry.KeepRecord(m, r.GetRecord()); err != nil {
		// A full disk must not keep members away: this record serves while its
		// agent is online, and comes again with the next registration.
		s.log.Error().Err(err).Str("agent", m.Name).Msg("keep a member's record")
	}
	replaced, flapping := s.present.arrive(now, a.key, attendance{
		conn: a, name: m.Name, instance: r.GetInstance(), version: ops.Plain(r.GetVersion()),
		record: r.GetRecord(), standing: r.GetStanding(), since: now,
	})
	// It may have been revoked since; now that it is present, a revocation
	// that comes from here on finds it.
	if _, err := s.registry.ByKey(a.key); err != nil {
		s.present.leave(a.key, a)
		return nil, err
	}
	if replaced != nil {
		replaced.expel(refusef(proto.Code_CODE_REPLACED, "%q registered from %v; if that was not this agent, two agents run with one key: let one of them join with a state folder of its own", m.Name, a.remote))
	}
	if flapping {
		s.log.Warn().Str("agent", m.Name).Stringer("here", a.remote).Stringer("there", replaced.remote).
			Msg("two agents run with one key and replace each other: stop one of them, and let it join with a state folder of its own")
	}
	a.reader.known = true
	s.noteSeen(a, true)
	s.log.Debug().Str("agent", m.Name).Stringer("from", a.remote).Str("version", ops.Plain(r.GetVersion())).Msg("registered")
	return s.welcome(a, m, r)
}

func checkRegister(key Key, m member, r *proto.Register) error {
	if err := checkSigned("a membership record", r.GetRecord()); err != nil {
		return err
	}
	if n := len(r.GetStanding().GetSealed()); n > maxStanding {
		return tooLarge("a standing set of candidates", n, maxStanding)
	}
	if n := len(r.GetVersion()); n > maxVersion {
		return tooLarge("a version", n, maxVersion)
	}
	return checkRecord(key, m.Name, m.StaticKey, r.GetRecord())
}

// welcome is the answer to a registration, and what waited for the agent.
func (s *Server) welcome(a *agentConn, m member, r *proto.Register) (messages, error) {
	revoked, err := s.registry.Revocations()
	if err != nil {
		return nil, err
	}
	first := min(len(revoked), maxRevoked)
	here := a.look().remote // its NAT may have given it another port since it came
	out := messages{{Body: &proto.ToAgent_Registered{Registered: &proto.Registered{
		Name:         m.Name,
		ObservedAddr: here.Addr().AsSlice(),
		ObservedPort: uint32(here.Port()),
		Stun:         s.endpoints(a.spot, here.Addr()),
		Doors:        s.doors(),
		Founder:      m.Founder,
		Revocations:  revoked[:first],
		KeepaliveS:   uint32(keepAlive / time.Second),
	}}}}
	for _, rev := range revoked[first:] {
		out = append(out, &proto.ToAgent{Body: &proto.ToAgent_Revocation{Revocation: rev}})
		if len(out) > maxOutbox/2 {
			break
		}
	}
	if m.Admission != nil && len(r.GetRecord().GetMac()) == 0 {
		admitted := new(proto.Admitted)
		if err := proto.Unmarshal(m.Admission, admitted); err != nil {
			return nil, err
		}
		out = append(out, &proto.ToAgent{Body: &proto.ToAgent_Admitted{Admitted: admitted}})
	}
	return out, nil
}

func (s *Server) createInvite(now time.Time, by member, c *proto.CreateInvite) (messages, error) {
	expires, uses := time.Duration(c.GetExpiresS())*time.Second, int(c.GetUses())
	if expires == 0 {
		expires = DefaultExpiry
	}
	if expires < MinExpiry || expires > maxMemberExpiry || uses > maxMemberUses {
		return nil, refusef(proto.Code_CODE_BAD_REQUEST, "an invite for %v and %d uses: a member's may be for %v to %v and at most %d uses",
			expires, uses, MinExpiry, maxMemberExpiry, maxMemberUses)
	}
	token, err := s.registry.CreateInvite(now, expires, max(uses, 1), by.Name)
	if err != nil {
		return nil, err
	}
	s.log.Info().Str("by", by.Name).Dur("expires", expires).Msg("a member made an invite")
	return messages{{Body: &proto.ToAgent_InviteCreated{InviteCreated: &proto.InviteCreated{Token: token[:]}}}}, nil
}

func (s *Server) listPending() (messages, error) {
	members, err := s.registry.Members()
	if err != nil {
		return nil, err
	}
	p := new(proto.Pending)
	for _, m := range members {
		if m.Admitted || len(p.Members) >= maxListed {
			continue
		}
		each, err := s.describe(m)
		if err != nil {
			return nil, err
		}
		p.Members = append(p.Members, each)
	}
	return messages{{Body: &proto.ToAgent_Pending{Pending: p}}}, nil
}

// describe is m for other agents, with the record that it registered last.
func (s *Server) describe(m member) (*proto.Member, error) {
	key, _ := keyOf(m.Key)
	here, online := s.present.find(key)
	out, err := m.message(online)
	if err == nil && online {
		out.Record = here.record
	}
	return out, err
}

func (s *Server) approve(by member, p *proto.Approve) (messages, error) {
	if n := len(p.GetSealed()); n == 0 || n > maxSecret {
		return nil, refusef(proto.Code_CODE_BAD_REQUEST, "an approval holds the sealed secret, 1 to %d bytes, not %d", maxSecret, n)
	}
	from, err := s.describe(by)
	if err != nil {
		return nil, err
	}
	admitted := &proto.Admitted{By: from, Sealed: p.GetSealed()}
	if err := s.registry.Approve(by, p.GetName(), p.GetKey(), admitted); err != nil {
		return nil, err
	}
	s.log.Info().Str("agent", p.GetName()).Str("by", by.Name).Msg("approved")
	if key, ok := keyOf(p.GetKey()); ok {
		if to, ok := s.present.find(key); ok {
			to.conn.send(&proto.ToAgent{Body: &proto.ToAgent_Admitted{Admitted: admitted}})
		}
	}
	return done(), nil
}

func (s *Server) revoke(now time.Time, signer Key, by member, r *proto.Revoke) (messages, error) {
	signed := r.GetRevocation().GetSigned()
	if err := checkSigned("a revocation", signed); err != nil {
		return nil, err
	}
	if err := seal.Verify(signed, nil, seal.ContextRevocation, signer[:]); err != nil {
		return nil, refusef(proto.Code_CODE_BAD_REQUEST, "the revocation: %v", err)
	}
	var body proto.RevocationBody
	if err := proto.Unmarshal(signed.GetBody(), &body); err != nil {
		return nil, refusef(proto.Code_CODE_BAD_REQUEST, "the revocation can't be read")
	}
	if bytes.Equal(body.GetKey(), signer[:]) {
		return nil, refusef(proto.Code_CODE_BAD_REQUEST, "%q can't remove itself; ask another member", by.Name)
	}
	if err := s.registry.Revoke(now, by, signed, &body); err != nil {
		return nil, err
	}
	s.log.Info().Str("agent", body.GetName()).Str("by", by.Name).Msg("revoked")
	s.relay.Remove(now, body.GetName())
	gone, _ := keyOf(body.GetKey())
	s.public.expel(now, gone)
	s.front.expel(gone)
	for key, each := range s.present.all() {
		if key == gone {
			each.conn.expel(refusef(proto.Code_CODE_REVOKED, "%q was removed from the network by %q", body.GetName(), by.Name))
			continue
		}
		each.conn.send(&proto.ToAgent{Body: &proto.ToAgent_Revocation{Revocation: r.GetRevocation()}})
	}
	return done(), nil
}
