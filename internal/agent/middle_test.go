package agent

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	protobuf "google.golang.org/protobuf/proto"

	"rendezvous/internal/natlab"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// victim is an address that a coordinator which turned bad wants agents to
// send to. The lab counts what any host ever sends there.
var victim = netip.MustParseAddrPort("203.0.113.200:53")

// middle is a coordinator that turned bad, or whoever took its place: it has
// the pinned key and changes what an agent hears. A nil hook changes nothing.
type middle struct {
	// asked may answer in the coordinator's place; nil leaves it to that.
	asked  func(ask *proto.ToCoordinator) *proto.ToAgent
	answer func(ask *proto.ToCoordinator, m *proto.ToAgent)
	event  func(m *proto.ToAgent) []*proto.ToAgent

	mu   sync.Mutex
	push func(*proto.ToAgent)
}

func (m *middle) onAnswer(f func(ask *proto.ToCoordinator, m *proto.ToAgent)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answer = f
}

func (m *middle) onEvent(f func(m *proto.ToAgent) []*proto.ToAgent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.event = f
}

func (m *middle) change(ask *proto.ToCoordinator, a *proto.ToAgent) {
	m.mu.Lock()
	f := m.answer
	m.mu.Unlock()
	if f != nil {
		f(ask, a)
	}
}

func (m *middle) replace(e *proto.ToAgent) []*proto.ToAgent {
	m.mu.Lock()
	f := m.event
	m.mu.Unlock()
	if f == nil {
		return []*proto.ToAgent{e}
	}
	return f(e)
}

// use is the Config hook of an agent whose coordinator this is.
func (m *middle) use(c *Config) { c.Dialers.Connect = m.connect }

// say sends the agent an event of the coordinator's own making.
func (m *middle) say(e *proto.ToAgent) {
	m.mu.Lock()
	push := m.push
	m.mu.Unlock()
	push(e)
}

func (m *middle) connect(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*Connection, error) {
	c, err := connect(ctx, pc, addr, pin, cert)
	if err != nil {
		return nil, err
	}
	t := &tampered{ControlConn: c.ControlConn, m: m, events: make(chan *proto.ToAgent, 64), gone: make(chan struct{})}
	m.mu.Lock()
	m.push = t.push
	m.mu.Unlock()
	go t.pump()
	c.ControlConn = t
	return c, nil
}

// tampered is the agent's end of a control connection through a middle.
type tampered struct {
	ControlConn
	m      *middle
	mu     sync.Mutex
	closed bool
	events chan *proto.ToAgent
	gone   chan struct{}
	once   sync.Once
}

func (t *tampered) Events() <-chan *proto.ToAgent { return t.events }

func (t *tampered) Close() error {
	t.once.Do(func() { close(t.gone) })
	return t.ControlConn.Close()
}

func (t *tampered) Call(ctx context.Context, ask *proto.ToCoordinator) (*proto.ToAgent, error) {
	if f := t.m.asked; f != nil {
		if a := f(ask); a != nil {
			return a, nil
		}
	}
	a, err := t.ControlConn.Call(ctx, ask)
	if err == nil {
		t.m.change(ask, a)
	}
	return a, err
}

func (t *tampered) Send(m *proto.ToCoordinator) error {
	if f := t.m.asked; f != nil && f(m) != nil {
		return nil
	}
	return t.ControlConn.Send(m)
}

func (t *tampered) pump() {
	for m := range t.ControlConn.Events() {
		for _, each := range t.m.replace(m) {
			t.push(each)
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	close(t.events)
}

func (t *tampered) push(m *proto.ToAgent) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	select {
	case t.events <- m:
	case <-t.gone:
	}
}

// sentBy counts what one host sends to an address, from now on.
func sentBy(lab *natlab.Lab, host string, to netip.Addr) func() int {
	var mu sync.Mutex
	var n int
	lab.Watch(func(r natlab.Record) {
		if r.Event == natlab.Sent && r.Place == host && r.To.Addr() == to {
			mu.Lock()
			n += r.Count
			mu.Unlock()
		}
	})
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// explainsForgery says whether the agent's explain and counters tell of one.
func explainsForgery(t *testing.T, a *running, peer string) bool {
	t.Helper()
	return a.Status().Counters["forged"] > 0 &&
		slices.ContainsFunc(explained(t, a, peer), func(at Attempt) bool { return at.Side == SideLocal && at.Reason == "forged" })
}

// standingOf makes standing candidates as an agent would, of whatever it is told.
func standingOf(t *testing.T, id seal.Identity, secret seal.Secret, addrs ...netip.AddrPort) *proto.Standing {
	t.Helper()
	return standingMade(t, time.Now(), id, secret, addrs...)
}

func standingMade(t *testing.T, made time.Time, id seal.Identity, secret seal.Secret, addrs ...netip.AddrPort) *proto.Standing {
	t.Helper()
	plain, err := proto.Marshal(candidatesMade(t, made, id, secret, addrs...))
	if err != nil {
		t.Fatal(err)
	}
	return &proto.Standing{Sealed: seal.SealStanding(secret, plain)}
}

func candidatesMade(t *testing.T, made time.Time, id seal.Identity, secret seal.Secret, addrs ...netip.AddrPort) *proto.Signed {
	t.Helper()
	set := &proto.CandidateSet{MadeUnixNs: made.UnixNano()}
	for _, a := range addrs {
		set.Candidates = append(set.Candidates, proto.NewCandidate(proto.CandidateType_CANDIDATE_SERVER_REFLEXIVE, a))
	}
	body, err := proto.Marshal(set)
	if err != nil {
		t.Fatal(err)
	}
	return seal.Sign(id, &secret, seal.ContextCandidates, body)
}

func newIdentity(t *testing.T) seal.Identity {
	t.Helper()
	id, err := seal.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// betrayed is a pair of agents with the coordinator under control of the test
// on both sides.
type betrayed struct {
	*world
	home, laptop   *running
	toHome, toRoad *middle
	carrier, cafe  *natlab.NAT
}

func newBetrayed(t *testing.T) *betrayed {
	t.Helper()
	b := &betrayed{world: newWorld(t), toHome: &middle{}, toRoad: &middle{}}
	home, _, carrier := b.world.home()
	road, cafe := b.road(natlab.Home())
	b.carrier, b.cafe = carrier, cafe
	b.home = b.agent(home, "home", b.toHome.use)
	b.laptop = b.agent(road, "laptop", b.toRoad.use)
	return b
}

// unharmed checks that nobody sent anything to the victim.
func (b *betrayed) unharmed() {
	b.t.Helper()
	if n := b.lab.SentTo(victim.Addr()); n > 0 {
		b.t.Errorf("%d datagrams were sent to %v", n, victim)
	}
}

// cloned is a copy of m, in to.
func cloned[M protobuf.Message](t *testing.T, m, to M) M {
	t.Helper()
	b, err := proto.Marshal(m)
	if err == nil {
		err = proto.Unmarshal(b, to)
	}
	if err != nil {
		t.Fatal(err)
	}
	return to
}

// enrolPending makes a member that joined by a coordinator's link and waits to
// be admitted.
func (w *world) enrolPending(name string) *State {
	w.t.Helper()
	pin, err := w.registry.Pin()
	if err != nil {
		w.t.Fatal(err)
	}
	state, err := NewState(w.t.TempDir(), name, Coordinator{Addr: w.at, Pin: pin})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := state.Joined(name, nil); err != nil {
		w.t.Fatal(err)
	}
	id := state.Identity()
	token, err := w.registry.CreateInvite(time.Now(), time.Hour, 1, "")
	if err != nil {
		w.t.Fatal(err)
	}
	record, err := proto.Marshal(&proto.Record{Name: name, Key: id.Key(), StaticKey: id.StaticKey(), MadeUnix: time.Now().Unix()})
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.registry.Enrol(time.Now(), rendezvous.Key(id.Key()), &proto.Enrol{
		Token: token[:], Name: name, StaticKey: id.StaticKey(), Record: seal.Sign(id, nil, seal.ContextMember, record),
	}); err != nil {
		w.t.Fatal(err)
	}
	return state
}
