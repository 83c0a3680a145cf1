package rendezvous

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

func approval(of *guest, sealed string) *proto.ToCoordinator {
	return &proto.ToCoordinator{Body: &proto.ToCoordinator_Approve{Approve: &proto.Approve{
		Name: of.name, Key: of.id.Key(), Sealed: []byte(sealed),
	}}}
}

func (g *guest) pending() []*proto.Member {
	g.t.Helper()
	return g.must(&proto.ToCoordinator{Body: &proto.ToCoordinator_ListPending{ListPending: &proto.ListPending{}}}).GetPending().GetMembers()
}

func (g *guest) revocation(of *guest) *proto.ToCoordinator {
	g.t.Helper()
	body, err := proto.Marshal(&proto.RevocationBody{Name: of.name, Key: of.id.Key(), MadeUnix: 1})
	if err != nil {
		g.t.Fatal(err)
	}
	return &proto.ToCoordinator{Body: &proto.ToCoordinator_Revoke{Revoke: &proto.Revoke{
		Revocation: &proto.Revocation{Signed: seal.Sign(g.id, g.secret, seal.ContextRevocation, body)},
	}}}
}

func TestApprove(t *testing.T) {
	_, g := localBy(t, "", "home", "laptop")
	home, laptop := g[0], g[1]
	waiting := home.pending()
	if len(waiting) != 1 || waiting[0].GetName() != "laptop" || !waiting[0].GetOnline() || !bytes.Equal(waiting[0].GetKey(), laptop.id.Key()) {
		t.Fatalf("pending %v", waiting)
	}
	_, err := laptop.ask(approval(laptop, "secret"))
	wantCode(t, "approving oneself", err, proto.Code_CODE_BAD_REQUEST)
	wrong := *laptop
	wrong.id = home.id
	_, err = home.ask(approval(&wrong, "secret"))
	wantCode(t, "approving another key", err, proto.Code_CODE_KEY_CHANGED)
	_, err = home.ask(approval(laptop, ""))
	wantCode(t, "approving without a secret", err, proto.Code_CODE_BAD_REQUEST)
	_, err = laptop.ask(laptop.introduce(home, false, false))
	wantCode(t, "an introduction before the approval", err, proto.Code_CODE_BAD_REQUEST)
	_, err = laptop.ask(&proto.ToCoordinator{Body: &proto.ToCoordinator_ListPending{}})
	wantCode(t, "the list of pending agents before the approval", err, proto.Code_CODE_BAD_REQUEST)
	home.must(approval(laptop, "secret"))
	for range 2 { // now, and when it registers without having it
		a := laptop.event().GetAdmitted()
		if a.GetBy().GetName() != "home" || string(a.GetSealed()) != "secret" {
			t.Errorf("admitted with %v", a)
		}
		if _, err := laptop.register(); err != nil {
			t.Fatal(err)
		}
	}
	laptop.event() // of the second registration
	secret := seal.NewSecret()
	laptop.secret = &secret
	if _, err := laptop.register(); err != nil {
		t.Fatal(err)
	}
	if waiting := home.pending(); len(waiting) != 0 {
		t.Errorf("pending %v", waiting)
	}
	m := home.must(&proto.ToCoordinator{Body: &proto.ToCoordinator_Lookup{Lookup: &proto.Lookup{Name: "laptop"}}}).GetMember()
	if err := seal.Verify(m.GetRecord(), &secret, seal.ContextMember, laptop.id.Key()); err != nil {
		t.Errorf("the record of the approved agent: %v", err)
	}
	if _, err := laptop.register(); err != nil {
		t.Fatal(err)
	}
	select {
	case m := <-laptop.Events():
		t.Errorf("an agent that has its secret got %v", m)
	case <-time.After(50 * time.Millisecond):
	}
}

func TestMemberInvites(t *testing.T) {
	c, g := localBy(t, "", "home", "laptop")
	home, laptop := g[0], g[1]
	ask := func(expires, uses uint32) *proto.ToCoordinator {
		return &proto.ToCoordinator{Body: &proto.ToCoordinator_CreateInvite{CreateInvite: &proto.CreateInvite{ExpiresS: expires, Uses: uses}}}
	}
	_, err := laptop.ask(ask(3600, 1))
	wantCode(t, "by one who waits", err, proto.Code_CODE_BAD_REQUEST)
	for _, wrong := range []*proto.ToCoordinator{ask(1, 1), ask(1<<31, 1), ask(3600, 1<<31)} {
		_, err := home.ask(wrong)
		wantCode(t, wrong.String(), err, proto.Code_CODE_BAD_REQUEST)
	}
	token := home.must(ask(0, 0)).GetInviteCreated().GetToken()
	third := newGuest(t, "third")
	if err := third.connect(t.Context(), localNetwork(), loopback, c.Addrs()[0], c.pin); err != nil {
		t.Fatal(err)
	}
	third.join(token)
	third.must(ask(3600, 2))
	if waiting := home.pending(); len(waiting) != 1 || waiting[0].GetName() != "laptop" {
		t.Errorf("pending %v", waiting)
	}
}

func TestRevokeTellsAll(t *testing.T) {
	_, g := localBy(t, "", "home", "laptop", "third")
	home, laptop, third := g[0], g[1], g[2]
	_, err := laptop.ask(laptop.revocation(home))
	wantCode(t, "by one who waits", err, proto.Code_CODE_BAD_REQUEST)
	_, err = home.ask(home.revocation(home))
	wantCode(t, "of oneself", err, proto.Code_CODE_BAD_REQUEST)
	_, err = home.ask(laptop.revocation(third))
	wantCode(t, "signed by another", err, proto.Code_CODE_BAD_REQUEST)
	home.must(home.revocation(laptop))
	if _, ok := <-laptop.Events(); ok || !errors.Is(laptop.Err(), &CodeError{Code: proto.Code_CODE_REVOKED}) {
		t.Errorf("the revoked agent's connection: %v", laptop.Err())
	}
	for _, g := range []*guest{home, third} {
		if r := g.event().GetRevocation(); !bytes.Equal(r.GetSigned().GetSigner(), home.id.Key()) {
			t.Errorf("%s got %v", g.name, r)
		}
	}
	r, err := third.register()
	if err != nil || len(r.GetRevocations()) != 1 {
		t.Errorf("registered with %v, %v", r, err)
	}
}

// TestFullDiskOnTheWire has agents meet a coordinator that can store nothing.
func TestFullDiskOnTheWire(t *testing.T) {
	dir := t.TempDir()
	registry, err := openRegistry(dir, bbolt.Options{Timeout: lockWait, MaxSize: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registry.Close() })
	c := startCoordinator(t, registry, localNetwork(), loopback, nil)
	home := newGuest(t, "home")
	if err := home.connect(t.Context(), localNetwork(), loopback, c.Addrs()[0], c.pin); err != nil {
		t.Fatal(err)
	}
	token := c.invite(t)
	home.join(token)
	for full := false; !full; {
		_, err := registry.CreateInvite(time.Now(), time.Hour, 1, "")
		full = err != nil
	}
	laptop := newGuest(t, "laptop")
	if err := laptop.connect(t.Context(), localNetwork(), loopback, c.Addrs()[0], c.pin); err != nil {
		t.Fatal(err)
	}
	var enrolErr error
	for range 100 { // the last free page may still take a few
		if _, enrolErr = laptop.enrol(token); enrolErr != nil {
			break
		}
		laptop.name += "x"
		laptop.id = newGuest(t, "").id
		if err := laptop.connect(t.Context(), localNetwork(), loopback, c.Addrs()[0], c.pin); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, "enrolling", enrolErr, proto.Code_CODE_STORAGE)
	_, err = laptop.register()
	wantCode(t, "registering without having enrolled", err, proto.Code_CODE_NOT_ENROLLED)
	// Members come and go as ever.
	secret := seal.NewSecret()
	home.secret = &secret
	if _, err := home.register(); err != nil {
		t.Errorf("a member, with a new record: %v", err)
	}
}

func TestStrangersAreCutOff(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c, _, _ := virtualPair(t)
		silent := newGuest(t, "silent")
		began := time.Now()
		if err := silent.connect(t.Context(), c.config.Network, netip.MustParseAddrPort("203.0.113.10:0"), c.Addrs()[0], c.pin); err != nil {
			t.Fatal(err)
		}
		<-silent.Events()
		if took := time.Since(began); took < knockWithin || took > 2*knockWithin+time.Second {
			t.Errorf("a stranger stayed %v: %v", took, silent.Err())
		}
	})
}

func TestTooManyRequests(t *testing.T) {
	_, g := localBy(t, "", "home")
	home := g[0]
	limited := 0
	for range rateRequests.Burst + 200 {
		_, err := home.ask(&proto.ToCoordinator{Body: &proto.ToCoordinator_Lookup{Lookup: &proto.Lookup{Name: "home"}}})
		if errors.Is(err, &CodeError{Code: proto.Code_CODE_LIMITED}) {
			limited++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if limited == 0 {
		t.Error("not limited")
	}
	// Who does not stop is cut off.
	for range 2 * rateFlood.Burst {
		if home.Send(&proto.ToCoordinator{}) != nil {
			break
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	select {
	case _, ok := <-home.Events():
		if ok {
			t.Error("an event instead of the end")
		}
	case <-ctx.Done():
		t.Error("not cut off")
	}
}
