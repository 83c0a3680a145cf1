package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// straight is a dialer that asks no environment for proxies.
func straight() *TLSDialer { return &TLSDialer{Dial: (&net.Dialer{}).DialContext} }

// streamCoordinator listens on loopback over UDP and TCP.
func streamCoordinator(t testing.TB, registry *Registry, listen netip.AddrPort, change func(*Config)) *coordinator {
	t.Helper()
	return startCoordinator(t, registry, localNetwork(), listen, func(c *Config) {
		c.Alternate, c.Streams = NoAlternate, dgram.SystemStreams()
		if change != nil {
			change(c)
		}
	})
}

func newStreamCoordinator(t testing.TB) *coordinator {
	t.Helper()
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	return streamCoordinator(t, registry, loopback, nil)
}

// tcp is where the coordinator listens over TCP.
func (c *coordinator) tcp(t testing.TB) string {
	t.Helper()
	if len(c.streams) == 0 {
		t.Fatal("it does not listen over TCP")
	}
	return c.streams[0].local.String()
}

func (g *guest) certificate() tls.Certificate {
	g.t.Helper()
	cert, err := g.id.Certificate()
	if err != nil {
		g.t.Fatal(err)
	}
	return cert
}

// connectTLS makes a control connection over TLS.
func (g *guest) connectTLS(d *TLSDialer, at string, pin [32]byte) error {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := d.Connect(ctx, at, pin, g.certificate())
	g.Client = client
	if err == nil {
		g.t.Cleanup(func() { _ = client.Close() })
	}
	return err
}

// tlsGuest has joined over TLS.
func tlsGuest(t testing.TB, c *coordinator, name string) *guest {
	t.Helper()
	g := newGuest(t, name)
	if err := g.connectTLS(straight(), c.tcp(t), c.pin); err != nil {
		t.Fatal(err)
	}
	g.join(c.invite(t))
	return g
}

// udpGuest has joined over QUIC.
func udpGuest(t testing.TB, c *coordinator, name string) *guest {
	t.Helper()
	g := newGuest(t, name)
	if err := g.connect(t.Context(), localNetwork(), loopback, c.Addrs()[0], c.pin); err != nil {
		t.Fatal(err)
	}
	g.join(c.invite(t))
	return g
}

func TestControlOverTLS(t *testing.T) {
	c := newStreamCoordinator(t)
	laptop, home := tlsGuest(t, c, "laptop"), udpGuest(t, c, "home")
	r, err := laptop.register()
	if err != nil {
		t.Fatal(err)
	}
	var doors []string
	for _, d := range r.GetDoors() {
		doors = append(doors, transportWord(d.GetTransport()))
	}
	if slices.Sort(doors); strings.Join(doors, " ") != "tcp tls udp" {
		t.Errorf("told of the doors %v", r.GetDoors())
	}
	if at, ok := (&proto.Endpoint{Addr: r.GetObservedAddr(), Port: r.GetObservedPort()}).AddrPort(); !ok || !at.Addr().IsLoopback() {
		t.Errorf("observed at %v", at)
	}
	if laptop.Transport() != "tls" || home.Transport() != "quic" || laptop.Via() != "" || laptop.Addr().String() != c.tcp(t) {
		t.Errorf("the laptop is on %s via %q at %v, home on %s", laptop.Transport(), laptop.Via(), laptop.Addr(), home.Transport())
	}
	in := laptop.must(laptop.introduce(home, false, true)).GetIntroduced()
	offer := home.event().GetOffer()
	if offer.GetIntroduction() != in.GetIntroduction() || string(offer.GetBody()) != "opening" || !in.GetFire() {
		t.Fatalf("introduced %v, offered %v", in, offer)
	}
	home.must(reply(offer.GetIntroduction(), ""))
	if answer := laptop.event().GetAnswer(); string(answer.GetBody()) != "answer" {
		t.Errorf("answered %v", answer)
	}
	back := home.must(home.introduce(laptop, true, false)).GetIntroduced()
	if offer := laptop.event().GetOffer(); offer.GetIntroduction() != back.GetIntroduction() || !offer.GetFresh() {
		t.Errorf("the laptop was offered %v", offer)
	}
	st, err := c.Status()
	if err != nil || len(st.Members) != 2 || st.Members[0].Transport != "quic" || st.Members[1].Transport != "tls" || st.Members[1].RTT <= 0 {
		t.Errorf("status %+v, %v", st.Members, err)
	}
	if laptop.RTT() <= 0 {
		t.Error("the client knows no round trip")
	}
}

// TestFarewellOverTLS has a coordinator end connections for reasons that the
// agent must tell apart.
func TestFarewellOverTLS(t *testing.T) {
	c := newStreamCoordinator(t)
	first := tlsGuest(t, c, "home")
	second := &guest{t: t, name: "home", id: first.id, instance: 2}
	if err := second.connectTLS(straight(), c.tcp(t), c.pin); err != nil {
		t.Fatal(err)
	}
	second.join(c.invite(t))
	gone(t, first, &CodeError{Code: proto.Code_CODE_REPLACED})

	third := tlsGuest(t, c, "laptop")
	body, err := proto.Marshal(&proto.RevocationBody{Name: "home", Key: second.id.Key()})
	if err != nil {
		t.Fatal(err)
	}
	signed := seal.Sign(third.id, nil, seal.ContextRevocation, body)
	third.must(&proto.ToCoordinator{Body: &proto.ToCoordinator_Revoke{Revoke: &proto.Revoke{Revocation: &proto.Revocation{Signed: signed}}}})
	gone(t, second, &CodeError{Code: proto.Code_CODE_REVOKED})
	if third.event().GetRevocation() != nil {
		t.Log("the one who revoked hears of it too")
	}
	c.stop()
	if bye := third.event().GetGoodbye(); bye.GetBackInS() == 0 {
		t.Errorf("got %v", bye)
	}
	gone(t, third, ErrStopping)
	if _, err := third.register(); !errors.Is(err, ErrStopping) {
		t.Errorf("a call gave %v", err)
	}
}

// gone waits until a connection has ended for a reason.
func gone(t *testing.T, g *guest, why error) {
	t.Helper()
	select {
	case m, ok := <-g.Events():
		if ok || !errors.Is(g.Err(), why) {
			t.Errorf("%s got %v, %v; want %v", g.name, m, g.Err(), why)
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("%s is still connected", g.name)
	}
}

// TestKilledOverTLS cuts the connections as a kill does: the kernel closes
// them, and nothing is said. The agent notices at once and connects to the
// next process.
func TestKilledOverTLS(t *testing.T) {
	c := newStreamCoordinator(t)
	home := tlsGuest(t, c, "home")
	c.front.mu.Lock()
	for trunk := range c.front.trunks {
		go trunk.stop()
	}
	c.front.mu.Unlock()
	began := time.Now()
	gone(t, home, errCut)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("noticed after %v", took)
	}
	if err := home.connectTLS(straight(), c.tcp(t), c.pin); err != nil {
		t.Fatal(err)
	}
	if _, err := home.register(); err != nil {
		t.Error(err)
	}
}

func TestTLSPin(t *testing.T) {
	c := newStreamCoordinator(t)
	err := newGuest(t, "home").connectTLS(straight(), c.tcp(t), [32]byte{1})
	if wrong := (*PinError)(nil); !errors.As(err, &wrong) {
		t.Errorf("a wrong pin gave %v", err)
	}
}

// relayed is a leg's conn and what it read.
type relayed struct {
	dgram.Conn
	far  netip.AddrPort
	got  chan string
	done chan struct{}
}

// readLeg reads a conn until it is closed.
func readLeg(conn dgram.Conn, far netip.AddrPort) *relayed {
	r := &relayed{Conn: conn, far: far, got: make(chan string, 100), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		_ = path.Read(conn, func(b dgram.Burst) {
			for d := range b.All() {
				r.got <- string(d)
			}
		})
	}()
	return r
}

func (r *relayed) send(t *testing.T, d []byte) {
	t.Helper()
	if err := r.Write(dgram.One(r.far, d)); err != nil {
		t.Fatal(err)
	}
}

// wants waits for a datagram; "bound" is any answer to a bind.
func (r *relayed) wants(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-r.got:
		if want == "bound" && proto.KindOf([]byte(got)) == proto.KindBound || got == want {
			return
		}
		t.Fatalf("got %q, want %q", got, want)
	case <-time.After(10 * time.Second):
		t.Fatalf("%q has not come", want)
	}
}

func bindOf(a *proto.Allocation, counter uint64) []byte {
	b := proto.Bind{Allocation: proto.Token(a.GetId()), Leg: uint8(a.GetLeg()), Counter: counter}
	b.MAC = seal.BindMAC(a.GetKey(), b)
	return proto.AppendBind(nil, b)
}

// allocations introduces two agents with a relay and gives both legs.
func allocations(t *testing.T, a, b *guest) (forA, forB *proto.Allocation) {
	t.Helper()
	in := a.must(a.introduce(b, false, true)).GetIntroduced()
	return in.GetAllocation(), b.event().GetOffer().GetAllocation()
}

// TestRelayOverTLS has one leg on TLS and the other on UDP. What comes before
// the other leg is bound waits for it, and a leg that moves to a new stream is
// found there.
func TestRelayOverTLS(t *testing.T) {
	c := newStreamCoordinator(t)
	laptop, home := tlsGuest(t, c, "laptop"), udpGuest(t, c, "home")
	forLaptop, forHome := allocations(t, laptop, home)
	d := straight()
	open := func() *relayed {
		conn, far, err := d.Relay(t.Context(), c.tcp(t), c.pin, laptop.certificate())
		if err != nil {
			t.Fatal(err)
		}
		return readLeg(conn, far)
	}
	first := open()
	first.send(t, bindOf(forLaptop, 1))
	first.wants(t, "bound")
	first.send(t, []byte("held"))
	first.send(t, bindOf(forLaptop, 2)) // its answer says that what went before has come
	first.wants(t, "bound")

	udp, err := localNetwork().ListenUDP(loopback)
	if err != nil {
		t.Fatal(err)
	}
	near := readLeg(udp, c.Addrs()[0])
	near.send(t, bindOf(forHome, 1))
	near.wants(t, "bound")
	near.wants(t, "held")
	first.wants(t, "bound")
	near.send(t, []byte("to TLS"))
	first.wants(t, "to TLS")
	first.send(t, []byte("to UDP"))
	near.wants(t, "to UDP")

	second := open()
	if n := poolSize(d); n != 1 {
		t.Errorf("two legs have %d connections", n)
	}
	_ = first.Close()
	<-first.done
	second.send(t, bindOf(forLaptop, 3))
	second.wants(t, "bound")
	near.send(t, []byte("moved"))
	for { // the first answer to the second bind may come twice
		if got := <-second.got; got == "moved" {
			break
		}
	}
	_ = second.Close()
	<-second.done
	if n := poolSize(d); n != 0 {
		t.Errorf("without legs there are %d connections", n)
	}
	_ = udp.Close()
	<-near.done
	waitFor(t, func() bool { return c.front.legs.Load() == 0 })
}

func poolSize(d *TLSDialer) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, p := range d.pools {
		p.mu.Lock()
		n += len(p.conns)
		p.mu.Unlock()
	}
	return n
}

// TestStrangerHasNoLeg has an agent that is no member ask for a relay leg.
func TestStrangerHasNoLeg(t *testing.T) {
	c := newStreamCoordinator(t)
	conn, _, err := straight().Relay(t.Context(), c.tcp(t), c.pin, newGuest(t, "nobody").certificate())
	if err != nil {
		t.Fatal(err)
	}
	<-readLeg(conn, netip.AddrPort{}).done
	if n := c.front.drops.legs.Load(); n != 1 {
		t.Errorf("%d legs were counted as refused", n)
	}
}
