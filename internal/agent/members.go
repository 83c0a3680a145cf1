package agent

import (
	"context"
	"errors"
	"fmt"

	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// errForged is what the log and explain say of a coordinator that stands in
// the middle.
var errForged = errors.New("the coordinator handed out something that the peer did not make; " +
	"nothing was sent to it. Check the VPS: somebody may have taken it over")

// lookUp asks the coordinator for a member and verifies what it says.
func (a *Agent) lookUp(ctx context.Context, name string) (Peer, error) {
	answer, err := a.link.call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_Lookup{Lookup: &proto.Lookup{Name: name}}})
	if err != nil {
		return Peer{}, fmt.Errorf("look up %q: %w", name, err)
	}
	var info Peer
	if m := answer.GetMember(); m.GetName() != name {
		err = fmt.Errorf("look up %q: %w", name, errForged)
	} else {
		info, err = a.readMember(m)
	}
	if isForgery(err) {
		a.forged(name, err)
	}
	return info, err
}

// readMember verifies a membership record and keeps it. What we knew of that
// name before must agree.
func (a *Agent) readMember(m *proto.Member) (Peer, error) {
	info, err := a.verifyMember(m)
	if err != nil {
		return Peer{}, err
	}
	switch old, known := a.cfg.State.Peer(info.Name); {
	case known && old.Key.Equal(info.Key) && string(old.Static) == string(info.Static):
		// Its record is signed anew at each start; that is not worth a write
		// to disk while a punch waits for us.
		info = old
	case known && !a.cfg.State.Revoked(old.Key):
		return Peer{}, fmt.Errorf("%q has other keys than before (%s, now %s): if it joined anew, run `agent revoke %s` for the old one first",
			info.Name, seal.Fingerprint(old.Key), seal.Fingerprint(info.Key), info.Name)
	default:
		if err := a.cfg.State.PutPeer(info); err != nil {
			// A full disk must not cut off the way home: go on in memory.
			a.refusals.note(a, "state", err)
		}
	}
	a.peer(info.Name).setInfo(info)
	return info, nil
}

// verifyMember checks a membership record: made by that key, by somebody who
// knows the network's secret, and not revoked.
func (a *Agent) verifyMember(m *proto.Member) (Peer, error) {
	secret, ok := a.cfg.State.Secret()
	if !ok {
		return Peer{}, errWaiting
	}
	if err := seal.Verify(m.GetRecord(), &secret, seal.ContextMember, m.GetKey()); err != nil {
		if errors.Is(err, seal.ErrMAC) && len(m.GetRecord().GetMac()) == 0 {
			return Peer{}, fmt.Errorf("%q has joined but not been admitted; compare fingerprints and run `agent approve %s`", m.GetName(), m.GetName())
		}
		return Peer{}, fmt.Errorf("membership of %q: %w (%w)", m.GetName(), errForged, err)
	}
	var r proto.Record
	if err := proto.Unmarshal(m.GetRecord().GetBody(), &r); err != nil {
		return Peer{}, fmt.Errorf("membership of %q: %w", m.GetName(), err)
	}
	if r.GetName() != m.GetName() || string(r.GetKey()) != string(m.GetKey()) || string(r.GetStaticKey()) != string(m.GetStaticKey()) {
		return Peer{}, fmt.Errorf("membership of %q: %w", m.GetName(), errForged)
	}
	if a.cfg.State.Revoked(r.GetKey()) {
		return Peer{}, fmt.Errorf("%q was revoked", r.GetName())
	}
	record, err := proto.Marshal(m.GetRecord())
	return Peer{Name: r.GetName(), Key: r.GetKey(), Static: r.GetStaticKey(), Record: record}, err
}

func (p *peer) setInfo(info Peer) {
	p.mu.Lock()
	p.info = info
	p.mu.Unlock()
}

// identify gives the peer's keys, from the coordinator where we never met.
func (p *peer) identify(ctx context.Context) (Peer, error) {
	if info := p.member(); info.Key != nil && !p.a.cfg.State.Revoked(info.Key) {
		return info, nil
	}
	return p.a.lookUp(ctx, p.name)
}

// applyRevocation verifies and keeps a revocation and cuts the member off. A
// revocation counts only when a member signed it under the network's secret.
func (a *Agent) applyRevocation(r *proto.Revocation) error {
	secret, ok := a.cfg.State.Secret()
	if !ok {
		return errWaiting
	}
	s := r.GetSigned()
	if err := seal.Verify(s, &secret, seal.ContextRevocation, s.GetSigner()); err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	if a.cfg.State.Revoked(s.GetSigner()) {
		return errors.New("revocation: its signer was revoked itself")
	}
	var body proto.RevocationBody
	if err := proto.Unmarshal(s.GetBody(), &body); err != nil {
		return fmt.Errorf("revocation: %w", err)
	}
	if a.cfg.State.Revoked(body.GetKey()) {
		return nil
	}
	signed, err := proto.Marshal(s)
	if err != nil {
		return err
	}
	if err := a.cfg.State.PutRevocation(Revocation{Name: body.GetName(), Key: body.GetKey(), Signed: signed}); err != nil {
		return err
	}
	a.cfg.Log.Warn().Str("member", body.GetName()).Str("fingerprint", seal.Fingerprint(body.GetKey())).Msg("a member was revoked")
	a.peers.mu.Lock()
	p := a.peers.byName[body.GetName()]
	a.peers.mu.Unlock()
	if p == nil || string(p.member().Key) != string(body.GetKey()) {
		return nil
	}
	p.setInfo(Peer{})
	p.closeRaws()
	if as := p.association(); as != nil {
		p.ended(as, "the member was revoked")
	}
	return nil
}
