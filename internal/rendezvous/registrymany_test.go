package rendezvous

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// writes is how many transactions have changed the registry so far.
func writes(t *testing.T, r *Registry) (n int) {
	t.Helper()
	if err := r.db.View(func(tx *bbolt.Tx) error { n = tx.ID(); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestARecordThatSaysNothingNewIsNotWritten(t *testing.T) {
	r := openTest(t)
	g, _, err := joinAs(t, r, noon, "home", mustInvite(t, r, noon, time.Hour, 1, ""))
	if err != nil {
		t.Fatal(err)
	}
	record := func(at time.Duration, secret *seal.Secret) *proto.Signed {
		body, err := proto.Marshal(&proto.Record{Name: g.name, Key: g.id.Key(), StaticKey: g.id.StaticKey(), MadeUnix: int64(1 + at/time.Second)})
		if err != nil {
			t.Fatal(err)
		}
		return seal.Sign(g.id, secret, seal.ContextMember, body)
	}
	secret := &seal.Secret{1}
	for i, c := range []struct {
		record *proto.Signed
		writes int
	}{
		{record(time.Minute, nil), 0},
		{record(time.Minute, secret), 1}, // the secret has arrived
		{record(time.Hour, secret), 0},
		{record(24*time.Hour, secret), 0},
		{record(25*time.Hour, secret), 1},
		{record(26*time.Hour, nil), 1},
	} {
		m, err := r.ByKey(g.key())
		if err != nil {
			t.Fatal(err)
		}
		before := writes(t, r)
		if err := r.KeepRecord(m, c.record); err != nil {
			t.Fatal(err)
		}
		if got := writes(t, r) - before; got != c.writes {
			t.Errorf("record %d: %d writes, want %d", i, got, c.writes)
		}
	}
}

func TestManyWhoEnrolShareWrites(t *testing.T) {
	r := openTest(t)
	const many = 200
	if _, _, err := joinAs(t, r, noon, "home", mustInvite(t, r, noon, time.Hour, 1, "")); err != nil {
		t.Fatal(err)
	}
	token := mustInvite(t, r, noon, time.Hour, many, "home")
	before := writes(t, r)
	var all sync.WaitGroup
	for i := range many {
		all.Go(func() {
			if _, _, err := joinAs(t, r, noon, fmt.Sprintf("agent-%d", i), token); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := writes(t, r) - before; got > many/2 {
		t.Errorf("%d writes for %d new members", got, many)
	}
	if left := usesLeft(t, r, token); left != 0 {
		t.Errorf("the invite has %d uses left", left)
	}
	var count uint64
	if err := r.db.View(func(tx *bbolt.Tx) error { count = tx.Bucket(bucketMembers).Sequence(); return nil }); err != nil || count != many+1 {
		t.Errorf("%d members are counted, %v", count, err)
	}
}

func TestOpeningARegistryWritesNothing(t *testing.T) {
	dir := t.TempDir()
	r := testRegistry(t, dir)
	if _, _, err := joinAs(t, r, noon, "home", mustInvite(t, r, noon, time.Hour, 1, "")); err != nil {
		t.Fatal(err)
	}
	before, key := writes(t, r), r.key
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = testRegistry(t, dir)
	defer func() { _ = r.Close() }()
	if got := writes(t, r); got != before || !r.key.Equal(key) {
		t.Errorf("%d writes, want %d; the key is the same: %v", got, before, r.key.Equal(key))
	}
}
