package rendezvous

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// coordinator is a Server under test.
type coordinator struct {
	*Server
	pin  [32]byte
	stop func()
}

func testRegistry(t testing.TB, dir string) *Registry {
	t.Helper()
	r, err := OpenRegistry(dir)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// startCoordinator runs a coordinator on the network until the test ends or
// stop is called.
func startCoordinator(t testing.TB, registry *Registry, network dgram.Network, listen netip.AddrPort, change func(*Config)) *coordinator {
	t.Helper()
	c := Config{Network: network, Registry: registry, Listen: listen, Log: zerolog.New(zerolog.NewTestWriter(t)), Version: "test"}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	pin, err := registry.Pin()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return &coordinator{Server: s, pin: pin, stop: stop}
}

// invite is a member's: who joins by it is admitted.
func (c *coordinator) invite(t testing.TB) []byte { return c.inviteBy(t, "a member") }

// inviteBy is the coordinator's own where by is "".
func (c *coordinator) inviteBy(t testing.TB, by string) []byte {
	t.Helper()
	token, err := c.registry.CreateInvite(time.Now(), time.Hour, 100, by)
	if err != nil {
		t.Fatal(err)
	}
	return token[:]
}

// guest plays an agent.
type guest struct {
	*Client
	t        testing.TB
	name     string
	id       seal.Identity
	secret   *seal.Secret
	instance uint64
	conn     dgram.Conn
}

func newGuest(t testing.TB, name string) *guest {
	t.Helper()
	id, err := seal.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return &guest{t: t, name: name, id: id, instance: 1}
}

// connect dials from a new socket of the network.
func (g *guest) connect(ctx context.Context, network dgram.Network, local netip.AddrPort, to netip.AddrPort, pin [32]byte) error {
	g.t.Helper()
	conn, err := network.ListenUDP(local)
	if err != nil {
		g.t.Fatal(err)
	}
	pc := dgram.NewPacketConn(conn)
	read := make(chan struct{})
	go func() {
		defer close(read)
		_ = path.Read(conn, func(b dgram.Burst) { pc.Deliver(b) })
	}()
	cert, err := g.id.Certificate()
	if err != nil {
		g.t.Fatal(err)
	}
	client, err := Dial(ctx, pc, to, pin, cert)
	g.t.Cleanup(func() {
		if client != nil {
			_ = client.Close()
		}
		_ = pc.Close()
		_ = conn.Close()
		<-read
	})
	g.Client, g.conn = client, conn
	return err
}

func (g *guest) record() *proto.Signed {
	g.t.Helper()
	body, err := proto.Marshal(&proto.Record{Name: g.name, Key: g.id.Key(), StaticKey: g.id.StaticKey(), MadeUnix: 1})
	if err != nil {
		g.t.Fatal(err)
	}
	return seal.Sign(g.id, g.secret, seal.ContextMember, body)
}

func (g *guest) enrolment(token []byte) *proto.Enrol {
	return &proto.Enrol{Token: token, Name: g.name, StaticKey: g.id.StaticKey(), Record: g.record()}
}

func (g *guest) ask(m *proto.ToCoordinator) (*proto.ToAgent, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return g.Call(ctx, m)
}

func (g *guest) must(m *proto.ToCoordinator) *proto.ToAgent {
	g.t.Helper()
	a, err := g.ask(m)
	if err != nil {
		g.t.Fatalf("%s asked %T: %v", g.name, m.GetBody(), err)
	}
	return a
}

func (g *guest) enrol(token []byte) (*proto.Enrolled, error) {
	a, err := g.ask(&proto.ToCoordinator{Body: &proto.ToCoordinator_Enrol{Enrol: g.enrolment(token)}})
	return a.GetEnrolled(), err
}

func (g *guest) register() (*proto.Registered, error) {
	a, err := g.ask(&proto.ToCoordinator{Body: &proto.ToCoordinator_Register{Register: &proto.Register{
		Instance: g.instance, Version: "v", Record: g.record(), Standing: &proto.Standing{Sealed: []byte("standing of " + g.name)},
	}}})
	return a.GetRegistered(), err
}

// join enrols and registers.
func (g *guest) join(token []byte) *proto.Registered {
	g.t.Helper()
	if _, err := g.enrol(token); err != nil {
		g.t.Fatalf("enrol %s: %v", g.name, err)
	}
	r, err := g.register()
	if err != nil {
		g.t.Fatalf("register %s: %v", g.name, err)
	}
	return r
}

// event waits for the next event.
func (g *guest) event() *proto.ToAgent {
	g.t.Helper()
	select {
	case m, ok := <-g.Events():
		if !ok {
			g.t.Fatalf("%s lost its connection: %v", g.name, g.Err())
		}
		return m
	case <-time.After(20 * time.Second):
		g.t.Fatalf("%s got no event", g.name)
		return nil
	}
}

func (g *guest) introduce(to *guest, fresh, relay bool) *proto.ToCoordinator {
	return &proto.ToCoordinator{Body: &proto.ToCoordinator_Introduce{Introduce: &proto.Introduce{
		To: to.name, ToKey: to.id.Key(), Body: []byte("opening"), Fresh: fresh, WantRelay: relay,
	}}}
}

func reply(id uint64, declined string) *proto.ToCoordinator {
	r := &proto.Reply{Introduction: id, Declined: declined}
	if declined == "" {
		r.Body = []byte("answer")
	}
	return &proto.ToCoordinator{Body: &proto.ToCoordinator_Reply{Reply: r}}
}

var loopback = netip.MustParseAddrPort("127.0.0.1:0")

func localNetwork() dgram.Network { return dgram.System(dgram.Options{}) }
