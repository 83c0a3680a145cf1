package agent

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/forward"
	"rendezvous/internal/seal"
)

var testCoordinator = Coordinator{Addr: "vps.example:443", Pin: [32]byte{1, 2, 3}}

// newTestState is a joined state in a folder of its own.
func newTestState(t *testing.T) *State {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	s, err := NewState(dir, "home", testCoordinator)
	if err != nil {
		t.Fatal(err)
	}
	secret := seal.NewSecret()
	if err := s.Joined("home", &secret); err != nil {
		t.Fatal(err)
	}
	return s
}

func reopen(t *testing.T, s *State) *State {
	t.Helper()
	again, err := OpenState(s.Dir())
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func testKey(n byte) ed25519.PublicKey { return bytes.Repeat([]byte{n}, ed25519.PublicKeySize) }

func TestStateSurvives(t *testing.T) {
	s := newTestState(t)
	at := netip.MustParseAddrPort("203.0.113.10:443")
	stun := []netip.AddrPort{at, netip.MustParseAddrPort("[2001:db8::1]:3478")}
	peer := Peer{Name: "laptop", Key: testKey(1), Static: []byte{2}, Record: []byte{3}}
	service := Service{Name: "wg", Target: forward.Target{Scheme: "udp", Host: "127.0.0.1", Port: 51820, Raw: true}}
	dial := Dial{Peer: "laptop", Service: "ssh", Host: "::1", Port: 22}
	elsewhere, gone := dial, dial
	elsewhere.Port, gone.TCP = 23, true
	for _, err := range []error{
		s.SawCoordinator(at, stun),
		s.PutPeer(peer),
		s.PutRevocation(Revocation{Name: "thief", Key: testKey(9), Signed: []byte{4}}),
		s.PutService(service),
		s.PutDial(dial),
		s.PutDial(elsewhere),
		s.PutDial(gone),
		s.RemoveDial(gone),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if !s.AdvanceHandshake(peer.Key, time.Unix(0, 77)) {
		t.Error("a first handshake is refused")
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}

	got := reopen(t, s)
	if got.Name() != "home" || !got.Identity().Key().Equal(s.Identity().Key()) || !bytes.Equal(got.Identity().StaticKey(), s.Identity().StaticKey()) {
		t.Error("name or identity changed")
	}
	wantSecret, _ := s.Secret()
	if secret, ok := got.Secret(); !ok || secret != wantSecret {
		t.Error("the secret changed")
	}
	c := got.Coordinator()
	if c.Addr != testCoordinator.Addr || c.Pin != testCoordinator.Pin || len(c.Seen) != 1 || c.Seen[0] != at || len(c.STUN) != 2 {
		t.Errorf("coordinator %+v", c)
	}
	if p, ok := got.Peer("laptop"); !ok || !p.Key.Equal(peer.Key) || !bytes.Equal(p.Record, peer.Record) {
		t.Errorf("peer %+v", p)
	}
	if p, ok := got.PeerByKey(testKey(1)); !ok || p.Name != "laptop" {
		t.Errorf("peer by key %+v", p)
	}
	if !got.Revoked(testKey(9)) || got.Revoked(testKey(1)) || len(got.Revocations()) != 1 {
		t.Error("revocations changed")
	}
	if n := got.NewestHandshake(peer.Key); n != 77 {
		t.Errorf("newest handshake %d", n)
	}
	if list, err := got.Services(); err != nil || len(list) != 1 || list[0] != service {
		t.Errorf("services %v, %v", list, err)
	}
	if list, err := got.Dials(); err != nil || !slices.Equal(list, []Dial{dial, elsewhere}) {
		t.Errorf("dials %v, %v", list, err)
	}
}

func TestStatePermissions(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no such permissions")
	}
	s := newTestState(t)
	for name, want := range map[string]fs.FileMode{"": 0o700, identityFile: 0o600, stateFile: 0o600} {
		info, err := os.Stat(filepath.Join(s.Dir(), name))
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != want {
			t.Errorf("%q has mode %o, want %o", name, got, want)
		}
	}
}

func TestHandshakesOnlyAdvance(t *testing.T) {
	s := newTestState(t)
	key := testKey(1)
	for _, step := range []struct {
		at   int64
		want bool
	}{{5, true}, {5, false}, {4, false}, {6, true}} {
		if got := s.AdvanceHandshake(key, time.Unix(0, step.at)); got != step.want {
			t.Errorf("at %d: %v", step.at, got)
		}
	}
	if !s.AdvanceHandshake(testKey(2), time.Unix(0, 1)) {
		t.Error("one member's handshake holds back another's")
	}
	if n := reopen(t, s).NewestHandshake(key); n != 0 {
		t.Errorf("written before Flush: %d", n)
	}
	if err := s.PutPeer(Peer{Name: "x", Key: key}); err != nil { // any write takes it along
		t.Fatal(err)
	}
	if n := reopen(t, s).NewestHandshake(key); n != 6 {
		t.Errorf("newest handshake %d after a write", n)
	}
}

func TestRevokedPeerIsForgotten(t *testing.T) {
	s := newTestState(t)
	if err := s.PutPeer(Peer{Name: "laptop", Key: testKey(1)}); err != nil {
		t.Fatal(err)
	}
	// The name was given to another key since: that one stays.
	if err := s.PutRevocation(Revocation{Name: "laptop", Key: testKey(2)}); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Peer("laptop"); !ok {
		t.Error("the wrong key's revocation took the peer")
	}
	if err := s.PutRevocation(Revocation{Name: "laptop", Key: testKey(1)}); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Peer("laptop"); ok {
		t.Error("the peer is still there")
	}
}

func TestServicesReplaceAndGo(t *testing.T) {
	s := newTestState(t)
	for _, u := range []string{"udp://h:1", "udp://h:2"} {
		service, err := ParseService("wg", u)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.PutService(service); err != nil {
			t.Fatal(err)
		}
	}
	if list, _ := s.Services(); len(list) != 1 || list[0].Port != 2 {
		t.Errorf("services %v", list)
	}
	if err := s.RemoveService("w"); err != nil { // no such name, though it begins so
		t.Fatal(err)
	}
	if list, _ := s.Services(); len(list) != 1 {
		t.Errorf("services %v", list)
	}
	if err := s.RemoveService("wg"); err != nil {
		t.Fatal(err)
	}
	if list, _ := s.Services(); len(list) != 0 {
		t.Errorf("services %v", list)
	}
}

func TestNotJoined(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	if _, err := OpenState(dir); !errors.Is(err, ErrNotJoined) {
		t.Errorf("an empty folder gives %v", err)
	}
	s, err := NewState(dir, "home", testCoordinator)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenState(dir); !errors.Is(err, ErrNotJoined) {
		t.Errorf("a join that never ended gives %v", err)
	}
	again, err := NewState(dir, "home2", testCoordinator)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Identity().Key().Equal(s.Identity().Key()) {
		t.Error("a second attempt to join has another key")
	}
	if err := again.Joined("home2", nil); err != nil {
		t.Fatal(err)
	}
	if _, ok := reopen(t, again).Secret(); ok {
		t.Error("there is a secret before an approval")
	}
}

func TestDamagedState(t *testing.T) {
	tests := []struct {
		name string
		do   func(dir string) error
		want string
	}{
		{"half a file", func(dir string) error { return os.Truncate(filepath.Join(dir, stateFile), 20) }, "is damaged"},
		{"short secret", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, stateFile), []byte(`{"version":1,"joined":true,"secret":"AAAA"}`), 0o600)
		}, "the coordinator's pin has 0 bytes|the secret has 3 bytes, not 32"},
		{"short pin", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, stateFile), []byte(`{"version":1,"joined":true,"coordinator":{"pin":"AAAA"}}`), 0o600)
		}, "the coordinator's pin has 3 bytes, not 32"},
		{"newer", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, stateFile), []byte(`{"version":2}`), 0o600)
		}, "is of a newer agent"},
		{"half a key", func(dir string) error { return os.Truncate(filepath.Join(dir, identityFile), 20) }, "is damaged"},
		{"no key", func(dir string) error { return os.Remove(filepath.Join(dir, identityFile)) }, "is gone; put a backup in its place"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newTestState(t)
			if err := tt.do(s.Dir()); err != nil {
				t.Fatal(err)
			}
			_, err := OpenState(s.Dir())
			if err == nil || strings.Contains(err.Error(), "\n") {
				t.Fatalf("got %v, want one line", err)
			}
			if first, second, _ := strings.Cut(tt.want, "|"); !strings.Contains(err.Error(), first) && (second == "" || !strings.Contains(err.Error(), second)) {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}

func TestStateConcurrently(t *testing.T) {
	s := newTestState(t)
	var wg sync.WaitGroup
	for i := range byte(4) {
		wg.Go(func() {
			for n := range 10 {
				s.AdvanceHandshake(testKey(i), time.Unix(int64(n), 0))
				if err := s.PutPeer(Peer{Name: fmt.Sprintf("p%d-%d", i, n), Key: testKey(i)}); err != nil {
					t.Error(err)
				}
				s.Peers()
			}
		})
	}
	wg.Wait()
	if n := len(reopen(t, s).Peers()); n != 40 {
		t.Errorf("%d peers, want 40", n)
	}
}

func FuzzDecodeState(f *testing.F) {
	valid, err := json.Marshal(kept{Version: 1, Name: "home", Joined: true, Coordinator: testCoordinator, Secret: make([]byte, 32)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(valid)
	f.Add([]byte(`{"coordinator":{"pin":null}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var k kept
		if decodeState(text, &k) != nil {
			return
		}
		again, err := json.Marshal(k)
		if err != nil {
			t.Fatalf("%q reads, but does not write: %v", text, err)
		}
		var k2 kept
		if err := decodeState(again, &k2); err != nil {
			t.Errorf("%q writes %q, which does not read: %v", text, again, err)
		}
	})
}

// A clock that goes back, also over a restart, makes no handshake older than
// the last. S3-13
func TestHandshakeTimeOnlyRises(t *testing.T) {
	dir := t.TempDir()
	s, err := NewState(dir, "home", Coordinator{Addr: "vps.example:443"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Joined("home", nil); err != nil {
		t.Fatal(err)
	}
	noon := time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)
	last := s.HandshakeTime(noon)
	if !last.Equal(noon) {
		t.Errorf("at noon it is %v", last)
	}
	for range 3 {
		next := s.HandshakeTime(noon.Add(-time.Hour))
		if !next.After(last) {
			t.Errorf("%v follows %v", next, last)
		}
		last = next
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	again, err := OpenState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if next := again.HandshakeTime(noon.Add(-time.Hour)); !next.After(last) {
		t.Errorf("after a restart %v follows %v", next, last)
	}
}
