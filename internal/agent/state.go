package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/ops"
	"rendezvous/internal/portmap"
	"rendezvous/internal/seal"
	"rendezvous/internal/veil"
)

// The files of a state folder. The key is written once and never again, so no
// later write can lose it.
const (
	identityFile = "identity.key"
	stateFile    = "state.json"
)

// stateVersion rises when an older agent could no longer read the file.
const stateVersion = 1

// ErrNotJoined is the error of OpenState for a folder without a membership.
var ErrNotJoined = errors.New("this agent has not joined a network yet; run `agent join LINK` first")

// State is what an agent keeps in its state folder. A change is in memory only
// once it is on disk, so an error of a setter means that nothing changed; only
// handshakes' timestamps may be younger in memory (Flush). One process at a
// time may write a folder: hold ops.Listen's lock before OpenState.
type State struct {
	dir      string
	identity seal.Identity
	write    func(name string, data []byte) error // writeFile, except in tests

	mu    sync.Mutex
	kept  kept
	dirty bool // a timestamp is newer than on disk
}

// kept is state.json. Its maps and slices are replaced, never changed in place.
type kept struct {
	Version     int                   `json:"version"`
	Name        string                `json:"name"`
	Joined      bool                  `json:"joined"` // the coordinator has answered the enrolment
	Coordinator Coordinator           `json:"coordinator"`
	Secret      []byte                `json:"secret,omitempty"`
	Peers       map[string]Peer       `json:"peers,omitempty"`
	Handshakes  map[string]int64      `json:"handshakes,omitempty"`     // newest timestamp, by the peer's key in base64
	LastSent    int64                 `json:"last_handshake,omitempty"` // timestamp of our own newest handshake
	Revocations map[string]Revocation `json:"revocations,omitempty"`
	Networks    []Network             `json:"networks,omitempty"`  // the last used first
	Pairs       []Pair                `json:"pairs,omitempty"`     // of networks that were joined by more than the first attempt; the last used first
	Lifetimes   []Lifetimes           `json:"lifetimes,omitempty"` // of mappings, per network; the last found first
	Mappings    []portmap.Endless     `json:"mappings,omitempty"`  // that a router keeps until it is told otherwise
	Services    []string              `json:"services,omitempty"`  // NAME=URL, added while the agent ran
	Dials       []string              `json:"dials,omitempty"`     // PEER/NAME=URL
}

// Coordinator is where the agent's coordinator is and was.
type Coordinator struct {
	Addr string   `json:"addr"` // host:port, from the join link
	Pin  [32]byte `json:"-"`
	// Veil says that control datagrams are veiled, as the join link wanted.
	Veil bool `json:"veil,omitempty"`
	// Seen are addresses where it answered, newest first, for when its name
	// does not resolve. The first one's port is the last that worked.
	Seen []netip.AddrPort `json:"seen,omitempty"`
	STUN []netip.AddrPort `json:"stun,omitempty"` // where it answers STUN, best first
	// Doors are the ports on which it said that it is open.
	Doors []Door `json:"doors,omitempty"`
}

// Hide puts the veil over a way to the coordinator, if there is to be one.
func (c Coordinator) Hide(conn net.PacketConn) (net.PacketConn, error) {
	if !c.Veil {
		return conn, nil
	}
	v, err := veil.New(c.Pin, false)
	if err != nil {
		return nil, err
	}
	return veil.Packets(conn, v), nil
}

// MarshalJSON writes the pin in base64, as the join link has it.
func (c Coordinator) MarshalJSON() ([]byte, error) {
	type plain Coordinator
	return json.Marshal(struct {
		plain
		Pin []byte `json:"pin"`
	}{plain(c), c.Pin[:]})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *Coordinator) UnmarshalJSON(b []byte) error {
	type plain Coordinator
	read := struct {
		*plain
		Pin []byte `json:"pin"`
	}{plain: (*plain)(c)}
	if err := json.Unmarshal(b, &read); err != nil {
		return err
	}
	if len(read.Pin) != len(c.Pin) {
		return fmt.Errorf("the coordinator's pin has %d bytes, not %d", len(read.Pin), len(c.Pin))
	}
	c.Pin = [32]byte(read.Pin)
	return nil
}

// NewState begins a membership in dir, which is made where it is missing. The
// identity of an earlier attempt is used again, so that an enrolment whose
// answer was lost can be repeated. Joined must follow once the coordinator has
// agreed; it is known before then that the folder takes what it must.
func NewState(dir, name string, c Coordinator) (*State, error) {
	if err := ops.MakeState(dir); err != nil {
		return nil, err
	}
	s := &State{dir: dir, write: writeFile}
	err := s.readIdentity()
	if errors.Is(err, fs.ErrNotExist) {
		err = s.makeIdentity()
	}
	if err != nil {
		return nil, err
	}
	return s, s.update(func(k *kept) { *k = kept{Version: stateVersion, Name: name, Coordinator: c} })
}

// OpenState reads the state folder dir. The error is ErrNotJoined where there
// is no membership.
func OpenState(dir string) (*State, error) {
	s := &State{dir: dir, write: writeFile}
	name := filepath.Join(dir, stateFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("state folder %s: %w", dir, ErrNotJoined)
	}
	if err != nil {
		return nil, fileError(err)
	}
	if err := decodeState(text, &s.kept); err != nil {
		return nil, fmt.Errorf("the state file %s is damaged (%w); put a backup in its place, or move it away and join again by a new link", name, err)
	}
	if s.kept.Version > stateVersion {
		return nil, fmt.Errorf("the state file %s is of a newer agent (format %d, this one reads %d); install that version again", name, s.kept.Version, stateVersion)
	}
	if !s.kept.Joined {
		return nil, fmt.Errorf("state folder %s: %w", dir, ErrNotJoined)
	}
	err = s.readIdentity()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("the agent's key %s is gone; put a backup in its place, or move %s away and join again by a new link", filepath.Join(dir, identityFile), name)
	}
	return s, err
}

func decodeState(text []byte, k *kept) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(k); err != nil {
		return err
	}
	if k.Secret != nil && len(k.Secret) != len(seal.Secret{}) {
		return fmt.Errorf("the secret has %d bytes, not %d", len(k.Secret), len(seal.Secret{}))
	}
	return nil
}

func (s *State) readIdentity() error {
	name := filepath.Join(s.dir, identityFile)
	raw, err := os.ReadFile(name)
	if err != nil {
		return fileError(err)
	}
	if err := s.identity.UnmarshalBinary(raw); err != nil {
		return fmt.Errorf("the agent's key %s is damaged (%w); put a backup in its place, or move it away and join again by a new link", name, err)
	}
	return nil
}

func (s *State) makeIdentity() error {
	id, err := seal.NewIdentity()
	if err != nil {
		return err
	}
	raw, err := id.MarshalBinary()
	if err != nil {
		return err
	}
	s.identity = id
	return s.write(filepath.Join(s.dir, identityFile), raw)
}

// update changes the state on disk, and in memory when that worked.
func (s *State) update(change func(k *kept)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.kept
	change(&next)
	return s.save(next)
}

// save is called with the mutex held.
func (s *State) save(next kept) error {
	text, err := json.MarshalIndent(next, "", "  ")
	if err != nil {
		return err
	}
	if err := s.write(filepath.Join(s.dir, stateFile), append(text, '\n')); err != nil {
		return err
	}
	s.kept, s.dirty = next, false
	return nil
}

// Flush writes handshakes' timestamps that are only in memory. A minute lost
// to a crash lets a replayed handshake of that minute through once, which
// gives the replayer nothing: it cannot finish it.
func (s *State) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.dirty {
		return nil
	}
	return s.save(s.kept)
}

// Dir is the state folder.
func (s *State) Dir() string { return s.dir }

// Identity is the agent's pair of keys.
func (s *State) Identity() seal.Identity { return s.identity }

// Name is the agent's name in the network.
func (s *State) Name() string { return s.read().Name }

// Coordinator is where the coordinator is and was.
func (s *State) Coordinator() Coordinator { return s.read().Coordinator }

// Secret is the network's secret; ok is false while the agent waits for it.
func (s *State) Secret() (secret seal.Secret, ok bool) {
	k := s.read()
	if k.Secret == nil {
		return seal.Secret{}, false
	}
	return seal.Secret(k.Secret), true
}

func (s *State) read() kept {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept
}

// Joined says that the coordinator has accepted the enrolment, under this name
// and, for a founder or one who joined by a member's link, with this secret.
func (s *State) Joined(name string, secret *seal.Secret) error {
	return s.update(func(k *kept) {
		k.Joined, k.Name = true, name
		if secret != nil {
			k.Secret = bytes.Clone(secret[:])
		}
	})
}

// SetSecret keeps the network's secret, which an approval brought.
func (s *State) SetSecret(secret seal.Secret) error {
	return s.update(func(k *kept) { k.Secret = bytes.Clone(secret[:]) })
}

// maxSeen bounds the coordinator's remembered addresses: a host has few.
const maxSeen = 8

// SawCoordinator remembers where the coordinator answered, not valid where a
// proxy hid that, and where it answers STUN. It writes only what is news.
func (s *State) SawCoordinator(at netip.AddrPort, stun []netip.AddrPort) error {
	old := s.Coordinator()
	var seen []netip.AddrPort
	if at.IsValid() {
		seen = append(seen, at)
	}
	for _, a := range old.Seen {
		if a != at && len(seen) < maxSeen {
			seen = append(seen, a)
		}
	}
	if slices.Equal(seen, old.Seen) && slices.Equal(stun, old.STUN) {
		return nil
	}
	return s.update(func(k *kept) { k.Coordinator.Seen, k.Coordinator.STUN = seen, slices.Clone(stun) })
}

// NewestHandshake is the newest timestamp of the member with this key, in
// nanoseconds since 1970, or 0.
func (s *State) NewestHandshake(key []byte) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept.Handshakes[keyText(key)]
}

// HandshakeTime is the timestamp for a handshake of our own: now, or where the
// clock was set back, just after the last one, so that peers, who refuse what
// is not newer, are not lost until the old time has passed. Flush writes it.
func (s *State) HandshakeTime(now time.Time) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept.LastSent = max(now.UnixNano(), s.kept.LastSent+1)
	s.dirty = true
	return time.Unix(0, s.kept.LastSent)
}

// AdvanceHandshake says whether timestamp is newer than every one that this
// member's handshakes carried before, and remembers it. The caller must have
// authenticated the handshake; Flush writes it.
func (s *State) AdvanceHandshake(key []byte, timestamp time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := keyText(key)
	if timestamp.UnixNano() <= s.kept.Handshakes[k] {
		return false
	}
	// A copy, because a reader may be encoding the map.
	next := maps.Clone(s.kept.Handshakes)
	if next == nil {
		next = make(map[string]int64)
	}
	next[k], s.kept.Handshakes, s.dirty = timestamp.UnixNano(), next, true
	return true
}
