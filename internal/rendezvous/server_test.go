package rendezvous

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// local starts a coordinator and agents on the loopback, all joined.
func local(t *testing.T, names ...string) (*coordinator, []*guest) {
	t.Helper()
	return localBy(t, "a member", names...)
}

// localBy is local with guests who joined by an invite of by.
func localBy(t *testing.T, by string, names ...string) (*coordinator, []*guest) {
	t.Helper()
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	c := startCoordinator(t, registry, localNetwork(), loopback, nil)
	guests := make([]*guest, len(names))
	for i, name := range names {
		guests[i] = newGuest(t, name)
		if err := guests[i].connect(t.Context(), localNetwork(), loopback, c.Addrs()[0], c.pin); err != nil {
			t.Fatal(err)
		}
		guests[i].join(c.inviteBy(t, by))
	}
	return c, guests
}

func TestIntroduction(t *testing.T) {
	c, g := local(t, "home", "laptop")
	home, laptop := g[0], g[1]
	got := laptop.must(&proto.ToCoordinator{Body: &proto.ToCoordinator_Lookup{Lookup: &proto.Lookup{Name: "home"}}}).GetMember()
	if got.GetName() != "home" || string(got.GetKey()) != string(home.id.Key()) || !got.GetOnline() {
		t.Errorf("looked up %v", got)
	}
	in := laptop.must(laptop.introduce(home, false, true)).GetIntroduced()
	if string(in.GetStanding().GetSealed()) != "standing of home" || !in.GetFire() {
		t.Errorf("introduced with %v", in)
	}
	offer := home.event().GetOffer()
	if offer.GetIntroduction() != in.GetIntroduction() || offer.GetFrom().GetName() != "laptop" ||
		string(offer.GetBody()) != "opening" || !offer.GetFire() {
		t.Errorf("offered %v", offer)
	}
	a, b := in.GetAllocation(), offer.GetAllocation()
	if string(a.GetId()) != string(b.GetId()) || a.GetLeg() != 0 || b.GetLeg() != 1 || string(a.GetKey()) == string(b.GetKey()) {
		t.Errorf("allocations %v and %v", a, b)
	}
	if at, ok := a.GetRelay()[0].AddrPort(); !ok || at != c.Addrs()[0] {
		t.Errorf("the relay is at %v, not %v", at, c.Addrs()[0])
	}
	home.must(reply(offer.GetIntroduction(), ""))
	if answer := laptop.event().GetAnswer(); string(answer.GetBody()) != "answer" || answer.GetIntroduction() != in.GetIntroduction() {
		t.Errorf("answered %v", answer)
	}
	if _, err := home.ask(reply(offer.GetIntroduction(), "")); !errors.Is(err, &CodeError{Code: proto.Code_CODE_BAD_REQUEST}) {
		t.Errorf("a second answer gave %v", err)
	}
}

func TestFreshIntroductionFiresWithTheAnswer(t *testing.T) {
	_, g := local(t, "home", "laptop")
	home, laptop := g[0], g[1]
	in := laptop.must(laptop.introduce(home, true, false)).GetIntroduced()
	offer := home.event().GetOffer()
	if in.GetFire() || offer.GetFire() || !offer.GetFresh() || in.GetAllocation() != nil || offer.GetAllocation() != nil {
		t.Errorf("introduced with %v, offered %v", in, offer)
	}
	home.must(reply(offer.GetIntroduction(), ""))
	if answer := laptop.event().GetAnswer(); !answer.GetFire() {
		t.Errorf("answered %v", answer)
	}
	if g := home.event().GetGo(); g.GetIntroduction() != in.GetIntroduction() {
		t.Errorf("go %v", g)
	}
}

func TestIntroductionRefused(t *testing.T) {
	c, g := local(t, "home", "laptop", "third")
	home, laptop, third := g[0], g[1], g[2]
	want := func(what string, m *proto.ToCoordinator, code proto.Code) {
		t.Helper()
		if _, err := laptop.ask(m); !errors.Is(err, &CodeError{Code: code}) {
			t.Errorf("%s gave %v, want %v", what, err, code)
		}
	}
	nobody := newGuest(t, "nobody")
	want("no such peer", laptop.introduce(nobody, false, false), proto.Code_CODE_NO_SUCH_PEER)
	nobody.name = "home"
	want("another key", laptop.introduce(nobody, false, false), proto.Code_CODE_KEY_CHANGED)
	want("itself", laptop.introduce(laptop, false, false), proto.Code_CODE_BAD_REQUEST)
	large := laptop.introduce(home, false, false)
	large.GetIntroduce().Body = make([]byte, maxOpening+1)
	want("a large body", large, proto.Code_CODE_BAD_REQUEST)

	// Declined, and answered by somebody who was not asked.
	in := laptop.must(laptop.introduce(home, false, false)).GetIntroduced()
	if _, err := third.ask(reply(in.GetIntroduction(), "")); !errors.Is(err, &CodeError{Code: proto.Code_CODE_BAD_REQUEST}) {
		t.Errorf("a stranger's answer gave %v", err)
	}
	home.must(reply(home.event().GetOffer().GetIntroduction(), strings.Repeat("no ", 100)))
	if a := laptop.event().GetAnswer(); a.GetIntroduction() != in.GetIntroduction() || len(a.GetDeclined()) != maxText {
		t.Errorf("declined with %v", a)
	}
	// The peer leaves without an answer, then is offline.
	in = laptop.must(laptop.introduce(home, false, false)).GetIntroduced()
	home.event()
	if err := home.Close(); err != nil {
		t.Fatal(err)
	}
	if a := laptop.event().GetAnswer(); a.GetIntroduction() != in.GetIntroduction() || a.GetDeclined() == "" {
		t.Errorf("answered %v", a)
	}
	want("offline", laptop.introduce(home, false, false), proto.Code_CODE_PEER_OFFLINE)
	if counts := c.introductions.stats(); counts.Made != 2 || counts.Declined != 1 || counts.Expired != 1 || counts.Refused != 5 {
		t.Errorf("counted %+v", counts)
	}
}

func TestRegistered(t *testing.T) {
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	c := startCoordinator(t, registry, localNetwork(), loopback, nil)
	home := newGuest(t, "home")
	if err := home.connect(t.Context(), localNetwork(), loopback, c.Addrs()[1], c.pin); err != nil {
		t.Fatal(err)
	}
	if _, err := home.register(); !errors.Is(err, &CodeError{Code: proto.Code_CODE_NOT_ENROLLED}) {
		t.Errorf("registering a stranger gave %v", err)
	}
	if _, err := home.ask(&proto.ToCoordinator{Body: &proto.ToCoordinator_Lookup{Lookup: &proto.Lookup{Name: "home"}}}); !errors.Is(err, &CodeError{Code: proto.Code_CODE_NOT_ENROLLED}) {
		t.Errorf("a stranger's look-up gave %v", err)
	}
	r := home.join(c.invite(t))
	observed, ok := (&proto.Endpoint{Addr: r.GetObservedAddr(), Port: r.GetObservedPort()}).AddrPort()
	if !ok || observed != home.conn.LocalAddr() {
		t.Errorf("observed %v, not %v", observed, home.conn.LocalAddr())
	}
	// Both ports answer STUN; the one that the agent came in on is first.
	if len(r.GetStun()) != 2 || !r.GetFounder() || r.GetKeepaliveS() != 15 {
		t.Errorf("registered with %v", r)
	}
	first, _ := r.GetStun()[0].AddrPort()
	if first != c.Addrs()[1] {
		t.Errorf("STUN at %v first, not at %v", first, c.Addrs()[1])
	}
	report, err := stun.Discover(t.Context(), localNetwork(), c.Addrs()[:1])
	if err != nil || len(report.Mapped) == 0 {
		t.Errorf("discovered %+v, %v", report, err)
	}
	st, err := c.Status()
	if err != nil || len(st.Members) != 1 || !st.Members[0].Online || st.Members[0].Addr != observed.String() || st.STUN["answered"] == 0 {
		t.Errorf("status %+v, %v", st, err)
	}
}

// S4-05
func TestWrongPin(t *testing.T) {
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	c := startCoordinator(t, registry, localNetwork(), loopback, nil)
	home := newGuest(t, "home")
	err := home.connect(t.Context(), localNetwork(), loopback, c.Addrs()[0], [32]byte{1})
	var wrong *PinError
	if !errors.As(err, &wrong) || wrong.Got != c.pin || wrong.Want != [32]byte{1} || !strings.Contains(err.Error(), c.Addrs()[0].String()) {
		t.Errorf("got %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	silent, err := localNetwork().ListenUDP(loopback)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = newGuest(t, "home").connect(ctx, localNetwork(), loopback, silent.LocalAddr(), [32]byte{})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), silent.LocalAddr().String()) {
		t.Errorf("got %v", err)
	}
}
