package rendezvous

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"rendezvous/internal/seal"
	"rendezvous/proto"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func openTest(t *testing.T) *Registry {
	t.Helper()
	r := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = r.Close() })
	return r
}

// joinAs enrols a new agent.
func joinAs(t testing.TB, r *Registry, now time.Time, name string, token []byte) (*guest, member, error) {
	t.Helper()
	g := newGuest(t, name)
	m, err := r.Enrol(now, g.key(), g.enrolment(token))
	return g, m, err
}

func (g *guest) key() Key {
	k, _ := keyOf(g.id.Key())
	return k
}

func mustInvite(t testing.TB, r *Registry, now time.Time, expires time.Duration, uses int, by string) []byte {
	t.Helper()
	token, err := r.CreateInvite(now, expires, uses, by)
	if err != nil {
		t.Fatal(err)
	}
	return token[:]
}

func wantCode(t *testing.T, what string, err error, code proto.Code) {
	t.Helper()
	if code == 0 && err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if code != 0 && !errors.Is(err, &CodeError{Code: code}) {
		t.Errorf("%s: got %v, want %v", what, err, code)
	}
}

func TestInvites(t *testing.T) {
	r := openTest(t)
	once := mustInvite(t, r, noon, time.Hour, 1, "")
	twice := mustInvite(t, r, noon, time.Hour, 2, "")
	for i, c := range []struct {
		token []byte
		after time.Duration
		code  proto.Code
	}{
		{make([]byte, 16), 0, proto.Code_CODE_INVITE_UNKNOWN},
		{nil, 0, proto.Code_CODE_INVITE_UNKNOWN},
		{once, time.Minute, 0},
		{once, time.Minute, proto.Code_CODE_INVITE_USED_UP},
		{twice, time.Minute, 0},
		{twice, time.Hour - 1, 0},
		{twice, time.Hour - 1, proto.Code_CODE_INVITE_USED_UP},
		{twice, time.Hour, proto.Code_CODE_INVITE_EXPIRED},
		{once, 40 * 24 * time.Hour, proto.Code_CODE_INVITE_EXPIRED},
	} {
		_, _, err := joinAs(t, r, noon.Add(c.after), fmt.Sprintf("agent-%d", i), c.token)
		wantCode(t, fmt.Sprint("row ", i), err, c.code)
	}
	// A month after its end an invite is forgotten, when the next is made.
	mustInvite(t, r, noon.Add(40*24*time.Hour), time.Hour, 1, "")
	_, _, err := joinAs(t, r, noon.Add(40*24*time.Hour), "late", once)
	wantCode(t, "a forgotten invite", err, proto.Code_CODE_INVITE_UNKNOWN)
	file, err := os.ReadFile(r.path)
	if err != nil || bytes.Contains(file, twice) {
		t.Errorf("the file holds a token, or can't be read: %v", err)
	}
}

func TestNames(t *testing.T) {
	for _, name := range []string{"a", "home", "home-2", "0", strings.Repeat("x", 63)} {
		wantCode(t, name, CheckName(name), 0)
	}
	for _, name := range []string{"", "-a", "a-", "-", "Home", "a.b", "a b", "hö", "a_b", strings.Repeat("x", 64), "a\n", strings.Repeat("é", 100)} {
		wantCode(t, fmt.Sprintf("%q", name), CheckName(name), proto.Code_CODE_NAME_INVALID)
	}
}

func TestEnrol(t *testing.T) {
	r := openTest(t)
	token := mustInvite(t, r, noon, time.Hour, 3, "")
	home, m, err := joinAs(t, r, noon, "home", token)
	if err != nil || !m.Founder || !m.Admitted {
		t.Fatalf("the first member is %+v, %v", m, err)
	}
	// The answer may have been lost: again, and even when the invite is over.
	for _, now := range []time.Time{noon, noon.Add(2 * time.Hour)} {
		m, err = r.Enrol(now, home.key(), home.enrolment(token))
		if err != nil || !m.Founder || m.Name != "home" {
			t.Errorf("again: %+v, %v", m, err)
		}
	}
	renamed := *home
	renamed.name = "other"
	_, err = r.Enrol(noon, home.key(), renamed.enrolment(token))
	wantCode(t, "the same key by another name", err, proto.Code_CODE_BAD_REQUEST)
	_, _, err = joinAs(t, r, noon, "home", token)
	wantCode(t, "another key by the same name", err, proto.Code_CODE_NAME_TAKEN)
	_, _, err = joinAs(t, r, noon, "Home", token)
	wantCode(t, "a wrong name", err, proto.Code_CODE_NAME_INVALID)
	_, m, err = joinAs(t, r, noon, "second", token)
	if err != nil || m.Founder || m.Admitted {
		t.Errorf("the second, by a coordinator's link, is %+v, %v", m, err)
	}
	_, m, err = joinAs(t, r, noon, "third", mustInvite(t, r, noon, time.Hour, 1, "home"))
	if err != nil || m.Founder || !m.Admitted {
		t.Errorf("the third, by a member's link, is %+v, %v", m, err)
	}
	// What failed used nothing of the invite: one use of three is left.
	_, _, err = joinAs(t, r, noon, "fourth", token)
	wantCode(t, "the invite's last use", err, 0)
	_, _, err = joinAs(t, r, noon, "fifth", token)
	wantCode(t, "a use too many", err, proto.Code_CODE_INVITE_USED_UP)
}

func TestForgedRecords(t *testing.T) {
	r := openTest(t)
	token := mustInvite(t, r, noon, time.Hour, 3, "")
	home, other := newGuest(t, "home"), newGuest(t, "home")
	for what, change := range map[string]func(e *proto.Enrol){
		"of another key":    func(e *proto.Enrol) { e.Record = other.record() },
		"of another name":   func(e *proto.Enrol) { e.Name = "laptop" },
		"of another static": func(e *proto.Enrol) { e.StaticKey = other.id.StaticKey() },
		"changed":           func(e *proto.Enrol) { e.Record.Body[3] ^= 1 },
		"none":              func(e *proto.Enrol) { e.Record = nil },
		"of another context": func(e *proto.Enrol) {
			e.Record = seal.Sign(home.id, nil, seal.ContextRevocation, e.Record.Body)
		},
	} {
		e := home.enrolment(token)
		change(e)
		_, err := r.Enrol(noon, home.key(), e)
		wantCode(t, "a record "+what, err, proto.Code_CODE_BAD_REQUEST)
	}
}

func TestRevoke(t *testing.T) {
	r := openTest(t)
	token := mustInvite(t, r, noon, time.Hour, 9, "")
	home, founder, err := joinAs(t, r, noon, "home", token)
	wantCode(t, "enrol home", err, 0)
	laptop, pending, err := joinAs(t, r, noon, "laptop", token)
	wantCode(t, "enrol laptop", err, 0)
	revoke := func(by member, signer *guest, name string, key []byte) error {
		body := &proto.RevocationBody{Name: name, Key: key, MadeUnix: 1}
		raw, err := proto.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return r.Revoke(noon, by, seal.Sign(signer.id, nil, seal.ContextRevocation, raw), body)
	}
	wantCode(t, "by one who waits", revoke(pending, laptop, "home", home.id.Key()), proto.Code_CODE_BAD_REQUEST)
	wantCode(t, "of nobody", revoke(founder, home, "nobody", make([]byte, 32)), proto.Code_CODE_NO_SUCH_PEER)
	wantCode(t, "of another key", revoke(founder, home, "laptop", make([]byte, 32)), proto.Code_CODE_KEY_CHANGED)
	wantCode(t, "of laptop", revoke(founder, home, "laptop", laptop.id.Key()), 0)
	wantCode(t, "of laptop again", revoke(founder, home, "laptop", laptop.id.Key()), 0)
	_, err = r.ByKey(laptop.key())
	wantCode(t, "the revoked key", err, proto.Code_CODE_REVOKED)
	_, err = r.Enrol(noon, laptop.key(), laptop.enrolment(token))
	wantCode(t, "enrolling it", err, proto.Code_CODE_REVOKED)
	_, err = r.ByName("laptop")
	wantCode(t, "its name", err, proto.Code_CODE_NO_SUCH_PEER)
	_, _, err = joinAs(t, r, noon, "laptop", token)
	wantCode(t, "a new agent of that name", err, 0)
	all, err := r.Revocations()
	if err != nil || len(all) != 1 || !bytes.Equal(all[0].GetSigned().GetSigner(), home.id.Key()) {
		t.Errorf("revocations %v, %v", all, err)
	}
}

func TestRegistryOpens(t *testing.T) {
	dir := t.TempDir()
	r := testRegistry(t, dir)
	pin, err := r.Pin()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetHost("vps.example:443"); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRegistry(dir); !errors.Is(err, ErrRegistryLocked) {
		t.Errorf("opened twice: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	again := testRegistry(t, dir)
	host, err := again.Host()
	if got, _ := again.Pin(); got != pin || host != "vps.example:443" || err != nil {
		t.Errorf("opened again: host %q, %v", host, err)
	}
	if err := again.update("", func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(metaSchema, []byte("2")) }); err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRegistry(dir); err == nil || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("a newer registry gave %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, RegistryName), bytes.Repeat([]byte("garbage"), 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRegistry(dir); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("a damaged registry gave %v", err)
	}
}

// TestFullDisk lets the registry run out of room, and then get some.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	full := bbolt.Options{Timeout: lockWait, FreelistType: bbolt.FreelistMapType, MaxSize: 64 << 10}
	r, err := openRegistry(dir, full)
	if err != nil {
		t.Fatal(err)
	}
	token := mustInvite(t, r, noon, time.Hour, 1000, "")
	joined := 0
	var refused *guest
	for refused == nil && joined < 1000 {
		g, _, err := joinAs(t, r, noon, fmt.Sprintf("agent-%d", joined), token)
		var storage *StorageError
		switch {
		case err == nil:
			joined++
		case errors.As(err, &storage) && asCode(err).Code == proto.Code_CODE_STORAGE && strings.Contains(err.Error(), "disk full"):
			refused = g
		default:
			t.Fatal(err)
		}
	}
	if refused == nil {
		t.Fatal("the registry never was full")
	}
	check := func() {
		t.Helper()
		_, err := r.ByKey(refused.key())
		wantCode(t, "who could not be stored", err, proto.Code_CODE_NOT_ENROLLED)
		if all, err := r.Members(); err != nil || len(all) != joined {
			t.Errorf("%d members, %v; want %d", len(all), err, joined)
		}
		if left := usesLeft(t, r, token); left != 1000-joined {
			t.Errorf("the invite has %d uses left, want %d", left, 1000-joined)
		}
	}
	check()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = testRegistry(t, dir)
	defer func() { _ = r.Close() }()
	check()
	if _, err := r.Enrol(noon, refused.key(), refused.enrolment(token)); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// TestKilled kills a process that enrols agents as fast as it can, and looks
// for each that was told so.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	r := testRegistry(t, dir)
	token := mustInvite(t, r, time.Now(), time.Hour, MaxUses, "")
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for round := range 6 {
		child := exec.Command(os.Args[0], "-test.run=^TestEnrolUntilKilled$")
		child.Env = append(os.Environ(), fmt.Sprintf("ENROL_IN=%s", dir), fmt.Sprintf("ENROL_TOKEN=%x", token))
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines, enough := bufio.NewScanner(out), 20+round
		for n := 0; lines.Scan(); n++ {
			if name, ok := strings.CutPrefix(lines.Text(), "enrolled "); ok {
				told[name] = true
			}
			if n == enough {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = child.Wait() // it was killed
		r := testRegistry(t, dir)
		members, err := r.Members()
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]bool{}
		for _, m := range members {
			have[m.Name] = true
			if k, ok := keyOf(m.Key); !ok {
				t.Errorf("%s has a broken key", m.Name)
			} else if _, err := r.ByKey(k); err != nil {
				t.Errorf("%s is half there: %v", m.Name, err)
			}
		}
		for name := range told {
			if !have[name] {
				t.Errorf("round %d: %s was told that it is a member, and is none", round, name)
			}
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d enrolments survived 6 kills", len(told))
}

// TestEnrolUntilKilled is the child of TestKilled.
func TestEnrolUntilKilled(t *testing.T) {
	dir := os.Getenv("ENROL_IN")
	if dir == "" {
		t.Skip("it is the child of TestKilled")
	}
	var token []byte
	if _, err := fmt.Sscanf(os.Getenv("ENROL_TOKEN"), "%x", &token); err != nil {
		t.Fatal(err)
	}
	r := testRegistry(t, dir)
	for {
		var b [8]byte
		rand.Read(b[:])
		name := fmt.Sprintf("agent-%x", b)
		if _, _, err := joinAs(t, r, time.Now(), name, token); err != nil {
			t.Fatal(err)
		}
		fmt.Println("enrolled " + name)
	}
}

func usesLeft(t *testing.T, r *Registry, token []byte) (left int) {
	t.Helper()
	hash := sha256.Sum256(token)
	err := r.view(func(tx *bbolt.Tx) error {
		v, _, err := get[invite](tx.Bucket(bucketInvites), hash[:])
		left = v.Uses
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return left
}
