package rendezvous

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
	"rendezvous/internal/relay"
	"rendezvous/internal/seal"
	"rendezvous/internal/stripe"
	"rendezvous/proto"
)

// publicLab is a coordinator that opens ports to its members, an agent at home
// behind a NAT that binds whatever legs it is sent and answers each datagram,
// and a host with clients.
type publicLab struct {
	*coordinator
	t    *testing.T
	lab  *natlab.Lab
	vps  *natlab.Host
	home *natlab.Host
	log  *logged
	*fakeHome
	restart func() // of the coordinator, with its registry
}

// The ways to the coordinator, of which the lab adds a part by itself.
const (
	homeDelay   = 20 * time.Millisecond
	homeWay     = homeDelay + 10*time.Millisecond + 200*time.Microsecond
	clientDelay = 15 * time.Millisecond
	clientWay   = clientDelay + 5*time.Millisecond
)

var wgPort = netip.MustParseAddrPort("203.0.113.10:51820")

// logged is a log whose lines can be counted.
type logged struct {
	mu    sync.Mutex
	lines bytes.Buffer
}

// Write is that of io.Writer.
func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(b)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.lines.String(), what)
}

func newPublicLab(t *testing.T, change func(*PublishRule)) *publicLab {
	t.Helper()
	lab := natlab.New(t, natlab.Options{Seed: 1})
	p := &publicLab{t: t, lab: lab, vps: lab.Host("vps", "203.0.113.10/24"), log: &logged{}}
	p.vps.Readdress("203.0.113.10/24", "2001:db8::10/64")
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	rule := PublishRule{Ports: []stripe.Range{{First: 51820, Last: 51829}}, NewClientsSource: 1000, NewClients: 1000}
	if change != nil {
		change(&rule)
	}
	start := func() *coordinator {
		return startCoordinator(t, registry, p.vps, netip.AddrPortFrom(netip.Addr{}, 443), func(c *Config) {
			c.Alternate, c.Public = 3478, []netip.Addr{wgPort.Addr(), netip.MustParseAddr("2001:db8::10")}
			c.Publish = []PublishRule{rule, {Ports: []stripe.Range{{First: 6000, Last: 6000}}, Members: []string{"other"}}}
			c.Log, c.Streams = zerolog.New(p.log), p.vps
		})
	}
	p.coordinator = start()
	p.restart = func() {
		p.stop()
		p.coordinator = start()
	}
	cgnat := lab.NAT("cgnat", "198.51.100.2/24", natlab.Behaviour{})
	router := cgnat.NAT("router", "100.64.0.2/24", natlab.Behaviour{})
	p.home = router.Host("home", "192.168.1.2/24", natlab.Delay(homeDelay))
	p.fakeHome = p.agent("home", p.home)
	return p
}

// client is a host with a socket for each that asks.
func (p *publicLab) client(addr string) *natlab.Host {
	return p.lab.Host("client"+addr, addr, natlab.Delay(clientDelay))
}

// fakeHome plays an agent: it binds the legs that it is sent, and is the
// service.
type fakeHome struct {
	*guest
	t       *testing.T
	network dgram.Network
	relays  netip.AddrPort
	deaf    bool // it binds nothing
	done    chan struct{}

	mu      sync.Mutex
	legs    map[proto.Token]*homeLeg
	clients map[proto.Token]netip.AddrPort
	sizes   []int // of the datagrams on legs, as they came
	mute    bool  // it answers nobody
	pushes  int   // messages with legs
	sealed  bool
}

type homeLeg struct {
	conn   dgram.Conn
	leg    *relay.Leg
	codec  *seal.Leg
	cancel context.CancelFunc
	ended  chan struct{}
	got    []string // guarded by fakeHome.mu
}

func (p *publicLab) agent(name string, network dgram.Network) *fakeHome {
	p.t.Helper()
	h := &fakeHome{
		guest: newGuest(p.t, name), t: p.t, network: network, relays: p.Addrs()[0], done: make(chan struct{}),
		legs: map[proto.Token]*homeLeg{}, clients: map[proto.Token]netip.AddrPort{},
	}
	if err := h.connect(p.t.Context(), network, anyV4, p.Addrs()[0], p.pin); err != nil {
		p.t.Fatal(err)
	}
	h.join(p.invite(p.t))
	go h.listen(h.Client, h.done)
	p.t.Cleanup(h.leave)
	return h
}

// back connects again, after leave.
func (h *fakeHome) back(p *publicLab) {
	h.t.Helper()
	h.done = make(chan struct{})
	if err := h.connect(h.t.Context(), h.network, anyV4, p.Addrs()[0], p.pin); err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.register(); err != nil {
		h.t.Fatal(err)
	}
	go h.listen(h.Client, h.done)
}

// hangUp ends the control connection alone.
func (h *fakeHome) hangUp() {
	_ = h.Close()
	<-h.done
}

// leave ends it and all legs.
func (h *fakeHome) leave() {
	h.hangUp()
	h.mu.Lock()
	legs := h.legs
	h.legs = map[proto.Token]*homeLeg{}
	h.mu.Unlock()
	for _, l := range legs {
		l.end()
	}
}

func (l *homeLeg) end() {
	l.cancel()
	_ = l.conn.Close()
	<-l.ended
}

func (h *fakeHome) listen(c *Client, done chan struct{}) {
	defer close(done)
	for m := range c.Events() {
		if pc := m.GetPublicClient(); pc != nil {
			at, _ := (&proto.Endpoint{Addr: pc.GetAddr(), Port: pc.GetPort()}).AddrPort()
			h.mu.Lock()
			h.clients[proto.Token(pc.GetId())] = at
			h.mu.Unlock()
		}
		if m.GetPublicLegs() == nil {
			continue
		}
		h.mu.Lock()
		h.pushes++
		h.mu.Unlock()
		for _, a := range m.GetPublicLegs().GetAllocations() {
			if !h.deaf {
				h.bind(a)
			}
		}
	}
}

func (h *fakeHome) bind(a *proto.Allocation) {
	conn, err := h.network.ListenUDP(anyV4)
	if err != nil {
		h.t.Error(err)
		return
	}
	leg, err := relay.NewLeg(conn, h.relays, a)
	if err != nil {
		h.t.Error(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &homeLeg{conn: conn, leg: leg, cancel: cancel, ended: make(chan struct{})}
	if h.sealed {
		l.codec = seal.NewLeg([32]byte(a.GetKey()), false)
	}
	h.mu.Lock()
	h.legs[proto.Token(a.GetId())] = l
	h.mu.Unlock()
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = path.Read(conn, func(b dgram.Burst) { h.receive(l, b) }) })
	tasks.Go(func() {
		if leg.Claim(ctx) != nil {
			return
		}
		every := time.NewTicker(time.Duration(a.GetKeepaliveS()) * time.Second)
		defer every.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-every.C:
				_ = leg.Refresh()
			}
		}
	})
	go func() {
		tasks.Wait()
		close(l.ended)
	}()
}

func (h *fakeHome) receive(l *homeLeg, b dgram.Burst) {
	rest, ok := l.leg.Strip(b)
	if !ok {
		return
	}
	h.mu.Lock()
	for d := range rest.All() {
		h.sizes = append(h.sizes, len(d))
	}
	h.mu.Unlock()
	if l.codec == nil {
		_ = h.serve(l, rest)
		return
	}
	_ = l.codec.Open(time.Now(), rest, func(b dgram.Burst) error { return h.serve(l, b) })
}

// serve is the service: it says who it takes the client for, and what it heard.
func (h *fakeHome) serve(l *homeLeg, b dgram.Burst) error {
	for d := range b.All() {
		h.mu.Lock()
		l.got = append(l.got, string(d))
		mute := h.mute
		h.mu.Unlock()
		if mute {
			continue
		}
		answer := dgram.One(h.relays, fmt.Appendf(nil, "%d:%s", l.conn.LocalAddr().Port(), d))
		if l.codec == nil {
			_ = l.conn.Write(answer)
		} else {
			_ = l.codec.Seal(answer, l.conn.Write)
		}
	}
	return nil
}

// served are the legs on which something came.
func (h *fakeHome) served() (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, l := range h.legs {
		if len(l.got) > 0 {
			n++
		}
	}
	return n
}

// port is a public UDP port as it is asked for.
func port(n uint32) *proto.PublicPort {
	return &proto.PublicPort{Service: "wg", Port: n, Raw: true}
}

// publish asks, and waits until the spares are bound.
func (h *fakeHome) publish(ports ...*proto.PublicPort) []*proto.Publication {
	h.t.Helper()
	m := h.must(&proto.ToCoordinator{Body: &proto.ToCoordinator_Publish{Publish: &proto.Publish{Ports: ports}}})
	out := m.GetPublished().GetPorts()
	if len(out) != len(ports) {
		h.t.Fatalf("%d ports were asked for and %d answered", len(ports), len(out))
	}
	time.Sleep(time.Second) // virtual
	return out
}

func (h *fakeHome) mustPublish(ports ...*proto.PublicPort) {
	h.t.Helper()
	for _, each := range h.publish(ports...) {
		if each.GetRefused() != "" {
			h.t.Fatalf("refused: %s", each.GetRefused())
		}
	}
}

// figures are those of a port.
func (p *publicLab) figures(n uint16) publicFigures {
	p.t.Helper()
	for _, each := range p.public.all() {
		if each.number == n {
			return each.figures()
		}
	}
	p.t.Fatalf("port %d is not open", n)
	return publicFigures{}
}

// phone is a client: a socket that says something and hears the answer.
type phone struct {
	t    *testing.T
	conn dgram.Conn
	to   netip.AddrPort
	got  chan string
}

func (p *publicLab) phone(host *natlab.Host) *phone {
	p.t.Helper()
	conn, err := host.ListenUDP(anyV4)
	if err != nil {
		p.t.Fatal(err)
	}
	return p.phoneOn(conn)
}

func (p *publicLab) phoneOn(conn dgram.Conn) *phone {
	c := &phone{t: p.t, conn: conn, to: wgPort, got: make(chan string, 1024)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = path.Read(conn, func(b dgram.Burst) {
			for d := range b.All() {
				c.got <- string(d)
			}
		})
	}()
	p.t.Cleanup(func() {
		_ = conn.Close()
		<-done
	})
	return c
}

func (c *phone) say(what string) {
	c.t.Helper()
	if err := c.conn.Write(dgram.One(c.to, []byte(what))); err != nil {
		c.t.Fatal(err)
	}
}

// hear is the next answer, as "port:what"; nothing within the time is "".
func (c *phone) hear(within time.Duration) (from, what string) {
	select {
	case m := <-c.got:
		from, what, _ = strings.Cut(m, ":")
		return from, what
	case <-time.After(within):
		return "", ""
	}
}

func (c *phone) mustHear(what string) (from string) {
	c.t.Helper()
	from, got := c.hear(5 * time.Second)
	if got != what {
		c.t.Errorf("heard %q, want %q", got, what)
	}
	return from
}
