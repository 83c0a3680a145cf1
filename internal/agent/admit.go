package agent

import (
	"context"
	"fmt"
	"time"

	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// Invite asks the coordinator for an invite and makes a link of it that
// carries the network's secret (Membership).
func (a *Agent) Invite(ctx context.Context, expires time.Duration) (string, error) {
	secret, ok := a.cfg.State.Secret()
	if !ok {
		return "", errNoSecret
	}
	answer, err := a.link.call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_CreateInvite{
		CreateInvite: &proto.CreateInvite{ExpiresS: uint32(expires / time.Second), Uses: 1},
	}})
	if err != nil {
		return "", fmt.Errorf("ask the coordinator for an invite: %w", err)
	}
	token := answer.GetInviteCreated().GetToken()
	link := proto.Link{Coordinator: a.cfg.State.Coordinator().Addr, Pin: a.cfg.State.Coordinator().Pin, Veil: a.cfg.State.Coordinator().Veil, Secret: secret[:]}
	if len(token) != len(link.Token) {
		return "", fmt.Errorf("the coordinator's invite has %d bytes, not %d", len(token), len(link.Token))
	}
	copy(link.Token[:], token)
	return link.String(), nil
}

// Pending lists who waits to be admitted (Membership).
func (a *Agent) Pending(ctx context.Context) ([]PendingMember, error) {
	members, err := a.pending(ctx)
	if err != nil {
		return nil, err
	}
	var out []PendingMember
	for _, m := range members {
		p := PendingMember{Name: m.GetName(), Fingerprint: seal.Fingerprint(m.GetKey())}
		var r proto.Record
		if proto.Unmarshal(m.GetRecord().GetBody(), &r) == nil {
			p.Joined = time.Unix(r.GetMadeUnix(), 0)
		}
		out = append(out, p)
	}
	return out, nil
}

func (a *Agent) pending(ctx context.Context) ([]*proto.Member, error) {
	answer, err := a.link.call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_ListPending{ListPending: &proto.ListPending{}}})
	if err != nil {
		return nil, fmt.Errorf("ask the coordinator who is pending: %w", err)
	}
	return answer.GetPending().GetMembers(), nil
}

// Approve seals the network's secret for a pending member whose fingerprint a
// person has compared (Membership). The record proves that the static key,
// which the secret is sealed for, belongs to the key of the fingerprint.
func (a *Agent) Approve(ctx context.Context, name, fingerprint string) error {
	secret, ok := a.cfg.State.Secret()
	if !ok {
		return errNoSecret
	}
	members, err := a.pending(ctx)
	if err != nil {
		return err
	}
	for _, m := range members {
		if m.GetName() != name {
			continue
		}
		if got := seal.Fingerprint(m.GetKey()); fingerprint != "" && got != fingerprint {
			return fmt.Errorf("approve %q: its key is %s now, not %s as compared; nothing was sent to it", name, got, fingerprint)
		}
		if err := seal.Verify(m.GetRecord(), nil, seal.ContextMember, m.GetKey()); err != nil {
			return fmt.Errorf("approve %q: %w (%w)", name, errForged, err)
		}
		var r proto.Record
		if err := proto.Unmarshal(m.GetRecord().GetBody(), &r); err != nil || r.GetName() != name {
			return fmt.Errorf("approve %q: %w", name, errForged)
		}
		sealed, err := seal.SealTo(a.id, r.GetStaticKey(), secret[:])
		if err != nil {
			return err
		}
		_, err = a.link.call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_Approve{Approve: &proto.Approve{Name: name, Key: m.GetKey(), Sealed: sealed}}})
		return err
	}
	return fmt.Errorf("approve %q: nobody of that name waits; `agent pending` lists who does", name)
}

// Revoke removes a member: signed here, enforced by every member and by the
// coordinator (Membership).
func (a *Agent) Revoke(ctx context.Context, name string) error {
	secret, ok := a.cfg.State.Secret()
	if !ok {
		return errNoSecret
	}
	key, err := a.keyOf(ctx, name)
	if err != nil {
		return err
	}
	body, err := proto.Marshal(&proto.RevocationBody{Name: name, Key: key, MadeUnix: time.Now().Unix()})
	if err != nil {
		return err
	}
	revocation := &proto.Revocation{Signed: seal.Sign(a.id, &secret, seal.ContextRevocation, body)}
	if _, err := a.link.call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_Revoke{Revoke: &proto.Revoke{Revocation: revocation}}}); err != nil {
		return err
	}
	return a.applyRevocation(revocation)
}

// openAdmission takes the secret out of an admission, and checks that who
// sealed it is a member of that secret's network. Whether it is the network
// that was meant, an agent that joined by a coordinator's link can't know: a
// coordinator that turned bad may have founded one of its own. That is why
// approve shows fingerprints, and the log here the approving member's.
func openAdmission(id seal.Identity, m *proto.Admitted) (seal.Secret, error) {
	by := m.GetBy()
	plain, err := seal.OpenFrom(id, by.GetStaticKey(), m.GetSealed())
	if err != nil {
		return seal.Secret{}, err
	}
	if len(plain) != len(seal.Secret{}) {
		return seal.Secret{}, fmt.Errorf("%d bytes were sealed, which is no secret", len(plain))
	}
	secret := seal.Secret(plain)
	if err := seal.Verify(by.GetRecord(), &secret, seal.ContextMember, by.GetKey()); err != nil {
		return seal.Secret{}, fmt.Errorf("%w (%w)", errForged, err)
	}
	var r proto.Record
	if err := proto.Unmarshal(by.GetRecord().GetBody(), &r); err != nil {
		return seal.Secret{}, err
	}
	if r.GetName() != by.GetName() || string(r.GetStaticKey()) != string(by.GetStaticKey()) {
		return seal.Secret{}, errForged
	}
	return secret, nil
}

// keyOf is the key that a name has, as we verified it or else as the
// coordinator tells: one who was never admitted can be revoked as well.
func (a *Agent) keyOf(ctx context.Context, name string) ([]byte, error) {
	if info, known := a.cfg.State.Peer(name); known && !a.cfg.State.Revoked(info.Key) {
		return info.Key, nil
	}
	answer, err := a.link.call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_Lookup{Lookup: &proto.Lookup{Name: name}}})
	if err != nil {
		return nil, fmt.Errorf("look up %q: %w", name, err)
	}
	m := answer.GetMember()
	if err := seal.Verify(m.GetRecord(), nil, seal.ContextMember, m.GetKey()); err != nil {
		return nil, fmt.Errorf("membership of %q: %w (%w)", name, errForged, err)
	}
	// Else the coordinator could have us sign the removal of another's key.
	var r proto.Record
	if err := proto.Unmarshal(m.GetRecord().GetBody(), &r); err != nil || r.GetName() != name {
		return nil, fmt.Errorf("membership of %q: %w", name, errForged)
	}
	return m.GetKey(), nil
}
