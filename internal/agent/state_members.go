package agent

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
)

// Peer is another member of the network as this agent first verified it. Its
// keys never change under its name: a member that joins anew does so after a
// revocation.
type Peer struct {
	Name   string            `json:"name"`
	Key    ed25519.PublicKey `json:"key"`        // signs
	Static []byte            `json:"static_key"` // X25519, of the handshake
	Record []byte            `json:"record"`     // the proto.Signed that proved its membership, encoded
}

// Revocation is a member's removal.
type Revocation struct {
	Name   string            `json:"name"`
	Key    ed25519.PublicKey `json:"key"`
	Signed []byte            `json:"signed"` // the proto.Signed that proved it, encoded
}

func keyText(key []byte) string { return base64.RawURLEncoding.EncodeToString(key) }

// Peer is the peer of that name, if the agent knows one.
func (s *State) Peer(name string) (Peer, bool) {
	p, ok := s.read().Peers[name]
	return p, ok
}

// PeerByKey is the peer with that Ed25519 key, if the agent knows one.
func (s *State) PeerByKey(key ed25519.PublicKey) (Peer, bool) {
	for _, p := range s.read().Peers {
		if key.Equal(p.Key) {
			return p, true
		}
	}
	return Peer{}, false
}

// Peers are all peers known, by name.
func (s *State) Peers() []Peer {
	peers := s.read().Peers
	list := make([]Peer, 0, len(peers))
	for _, name := range slices.Sorted(maps.Keys(peers)) {
		list = append(list, peers[name])
	}
	return list
}

// PutPeer keeps a peer whose record was verified. It writes only what is news.
func (s *State) PutPeer(p Peer) error {
	if old, ok := s.Peer(p.Name); ok && old.Key.Equal(p.Key) &&
		bytes.Equal(old.Static, p.Static) && bytes.Equal(old.Record, p.Record) {
		return nil
	}
	return s.update(func(k *kept) { k.Peers = with(k.Peers, p.Name, p) })
}

// Revoked says whether the member with this key was removed.
func (s *State) Revoked(key ed25519.PublicKey) bool {
	_, revoked := s.read().Revocations[keyText(key)]
	return revoked
}

// Revocations are all removals known, by the member's name.
func (s *State) Revocations() []Revocation {
	return slices.SortedFunc(maps.Values(s.read().Revocations), func(a, b Revocation) int {
		return bytes.Compare([]byte(a.Name+"\x00"+string(a.Key)), []byte(b.Name+"\x00"+string(b.Key)))
	})
}

// PutRevocation keeps a removal that was verified, and forgets the peer.
func (s *State) PutRevocation(r Revocation) error {
	if s.Revoked(r.Key) {
		return nil
	}
	return s.update(func(k *kept) {
		k.Revocations = with(k.Revocations, keyText(r.Key), r)
		if p, ok := k.Peers[r.Name]; ok && p.Key.Equal(r.Key) {
			k.Peers = maps.Clone(k.Peers)
			delete(k.Peers, r.Name)
		}
	})
}

// with is a copy of m in which key has value.
func with[V any](m map[string]V, key string, value V) map[string]V {
	next := make(map[string]V, len(m)+1)
	maps.Copy(next, m)
	next[key] = value
	return next
}

// Services are those that were exposed while the agent ran.
func (s *State) Services() ([]Service, error) {
	return parseAll(s, s.read().Services, ParseExposeFlag)
}

// PutService keeps a service that was exposed while the agent ran; one of the
// same name goes.
func (s *State) PutService(service Service) error {
	return s.update(func(k *kept) {
		k.Services = append(without(k.Services, service.Name+"="), service.String())
	})
}

// RemoveService forgets a service; one that isn't kept is no error.
func (s *State) RemoveService(name string) error {
	return s.update(func(k *kept) { k.Services = without(k.Services, name+"=") })
}

// Dials are those that were added while the agent ran.
func (s *State) Dials() ([]Dial, error) {
	return parseAll(s, s.read().Dials, ParseDialFlag)
}

// PutDial keeps a dial that was added while the agent ran; one of the same
// target at the same address goes.
func (s *State) PutDial(d Dial) error {
	return s.update(func(k *kept) { k.Dials = append(withoutDial(k.Dials, d), d.String()) })
}

// RemoveDial forgets a dial; one that isn't kept is no error.
func (s *State) RemoveDial(d Dial) error {
	return s.update(func(k *kept) { k.Dials = withoutDial(k.Dials, d) })
}

// withoutDial is a copy of list without the dials of the target that listen where
// d does, whatever their rule.
func withoutDial(list []string, d Dial) []string {
	return slices.DeleteFunc(slices.Clone(list), func(line string) bool {
		have, err := ParseDialFlag(line)
		return err == nil && have.Target() == d.Target() && have.at() == d.at()
	})
}

// without is a copy of list without the lines that begin with prefix.
func without(list []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(line string) bool {
		return len(line) >= len(prefix) && line[:len(prefix)] == prefix
	})
}

func parseAll[T any](s *State, lines []string, parse func(string) (T, error)) ([]T, error) {
	list := make([]T, 0, len(lines))
	for _, line := range lines {
		v, err := parse(line)
		if err != nil {
			return nil, fmt.Errorf("the state file in %s holds what this agent cannot read: %w", s.dir, err)
		}
		list = append(list, v)
	}
	return list, nil
}
