package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/internal/rendezvous"
	"rendezvous/proto"
)

// narrow is a network that lets pass less than all. What stands for TLS and
// for fake TCP travels over UDP sockets of its own: what matters here is what
// the link makes of those that are open.
type narrow struct {
	host *natlab.Host
	mu   sync.Mutex
	udp  []uint16     // of the coordinator's ports; nil: none
	tls  []uint16     // the same, for TLS
	fake []uint16     // the same, for fake TCP
	via  string       // a proxy that TLS goes through
	all  map[int]bool // local ports of what stands for TCP
	took []time.Time  // when TLS was tried
	at   []string     // and where
}

func newNarrow(h *natlab.Host) *narrow {
	n := &narrow{host: h, all: map[int]bool{}}
	h.DropWhen(func(from, to netip.AddrPort, _ []byte) bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return !n.all[int(from.Port())] && !n.all[int(to.Port())] && !slices.Contains(n.udp, to.Port()) && !slices.Contains(n.udp, from.Port())
	})
	return n
}

// open changes what passes.
func (n *narrow) open(udp, tls, fake []uint16) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.udp, n.tls, n.fake = udp, tls, fake
}

func (n *narrow) passes(ports *[]uint16, port uint16) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Contains(*ports, port)
}

// use is the Config hook of an agent in this network.
func (n *narrow) use(c *Config) {
	c.Dialers.ConnectTLS, c.Host.FakeTCP = n.connectTLS, n
	c.Dialers.RelayTLS = func(context.Context, string, [32]byte, tls.Certificate) (dgram.Conn, netip.AddrPort, error) {
		return nil, netip.AddrPort{}, errors.New("none here")
	}
}

func (n *narrow) socket() (dgram.Conn, error) {
	conn, err := n.host.ListenUDP(netip.AddrPortFrom(netip.IPv4Unspecified(), 0))
	if err == nil {
		n.mu.Lock()
		n.all[int(conn.LocalAddr().Port())] = true
		n.mu.Unlock()
	}
	return conn, err
}

func (n *narrow) connectTLS(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (*Connection, error) {
	n.mu.Lock()
	n.took, n.at = append(n.took, time.Now()), append(n.at, at)
	via := n.via
	n.mu.Unlock()
	if !n.passes(&n.tls, portOf(at)) {
		<-ctx.Done()
		return nil, fmt.Errorf("dial coordinator %s over TLS: %w", at, ctx.Err())
	}
	if _, err := netip.ParseAddr(hostOf(at)); err != nil && via == "" {
		return nil, fmt.Errorf("dial coordinator %s over TLS: look it up: %w", at, syscall.EHOSTUNREACH)
	}
	conn, err := n.socket()
	if err != nil {
		return nil, err
	}
	pc := dgram.NewPacketConn(conn)
	go func() { _ = path.Read(conn, pc.Deliver) }()
	c, err := rendezvous.Dial(ctx, pc, netip.MustParseAddrPort(vpsAddr+":443"), pin, cert)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	addr := c.Addr()
	if via != "" {
		addr = netip.AddrPort{}
	}
	return &Connection{ControlConn: &closing{c, conn}, Addr: addr, Transport: "tls", Via: via, RTT: c.RTT, Why: c.Err}, nil
}

// closing closes its socket with it.
type closing struct {
	ControlConn
	conn dgram.Conn
}

func (c *closing) Close() error { return errors.Join(c.ControlConn.Close(), c.conn.Close()) }

// ListenFakeTCP is dgram.FakeTCP's.
func (n *narrow) ListenFakeTCP(netip.AddrPort, net.Listener) (dgram.Opener, error) {
	conn, err := n.socket()
	return &opener{conn, n}, err
}

type opener struct {
	dgram.Conn
	n *narrow
}

func (o *opener) Open(ctx context.Context, to netip.AddrPort) error {
	if !o.n.passes(&o.n.fake, to.Port()) {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// enters runs an agent in a network behind a home router.
func enters(t *testing.T, w *world, hook func(n *narrow, c *Config)) (*running, *narrow, *State) {
	t.Helper()
	road, _ := w.road(natlab.Home())
	n := newNarrow(road)
	state := w.enrol("laptop")
	return w.run(road, state, func(c *Config) {
		n.use(c)
		if hook != nil {
			hook(n, c)
		}
	}), n, state
}

func connected(a *running) func() bool {
	return func() bool { return a.Status().Coordinator.Connected }
}

func TestTheFirstWayThatPassesIsTaken(t *testing.T) {
	for _, c := range []struct {
		name            string
		udp, tls, faked []uint16
		over            string
		within          time.Duration
	}{
		{"all pass", []uint16{443, 3478}, []uint16{443}, []uint16{443}, "udp", 200 * time.Millisecond},
		{"UDP on another port", []uint16{3478}, nil, nil, "udp", 1500 * time.Millisecond},
		{"TLS on the coordinator's port", nil, []uint16{443}, []uint16{443}, "tcp", 500 * time.Millisecond},
		{"TLS on a port of mail-free networks", nil, []uint16{8443}, nil, "tcp", 2 * time.Second},
		{"fake TCP alone", nil, nil, []uint16{443}, "faketcp", 800 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				began := time.Now()
				a, _, state := enters(t, w, func(n *narrow, _ *Config) { n.open(c.udp, c.tls, c.faked) })
				waitFor(t, "connected", 10*time.Second, connected(a))
				took := time.Since(began)
				s := a.Status().Coordinator
				if s.Over != c.over || took > c.within {
					t.Errorf("over %s after %v; %+v", s.Over, took, s)
				}
				worked, ok := state.Worked(a.fingerprint())
				if !ok || overWord(worked.Over) != c.over {
					t.Errorf("remembered %+v, %v", worked, ok)
				}
				time.Sleep(3 * time.Second)
				if v := a.link.ways(); v.udp != (c.over == "udp") || v.udpDead != (c.over != "udp") {
					t.Errorf("%+v", v)
				}
			})
		})
	}
}

// What worked is tried first the next time, and costs no head start.
// S2-13
func TestWhatWorkedHereIsTriedFirst(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, n, state := enters(t, w, func(n *narrow, _ *Config) { n.open(nil, []uint16{8443}, nil) })
		waitFor(t, "connected", 10*time.Second, connected(a))
		a.stop()
		n.mu.Lock()
		n.took, n.at = nil, nil
		n.mu.Unlock()
		again, err := OpenState(state.Dir())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		b := w.run(n.host, again, n.use)
		took := waitFor(t, "connected", 10*time.Second, connected(b))
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.took[0].Sub(began) > 10*time.Millisecond || portOf(n.at[0]) != 8443 || took > 250*time.Millisecond {
			t.Errorf("the first was %s after %v; connected after %v", n.at[0], n.took[0].Sub(began), took)
		}
	})
}

// A link over TLS moves to UDP when that passes, without a gap.
func TestLinkMovesToUDPWithoutAGap(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, n, _ := enters(t, w, func(n *narrow, _ *Config) { n.open(nil, []uint16{443}, nil) })
		waitFor(t, "connected", 10*time.Second, connected(a))
		time.Sleep(5 * time.Minute)
		if s := a.Status().Coordinator; s.Over != "tcp" || !a.link.ways().udpDead {
			t.Fatalf("%+v, %+v", s, a.link.ways())
		}
		n.open([]uint16{443}, []uint16{443}, nil)
		gaps := 0
		waitFor(t, "over UDP", 90*time.Second, func() bool {
			s := a.Status().Coordinator
			if !s.Connected {
				gaps++
			}
			return s.Over == "udp"
		})
		for range 3000 {
			time.Sleep(10 * time.Millisecond)
			if s := a.Status().Coordinator; !s.Connected || s.Over != "udp" {
				gaps++
			}
		}
		if _, err := a.link.call(t.Context(), &proto.ToCoordinator{Body: &proto.ToCoordinator_ListPending{ListPending: &proto.ListPending{}}}); err != nil {
			t.Error(err)
		}
		if w := a.link.ways(); gaps > 0 || !w.udp || w.udpDead {
			t.Errorf("%d gaps; %+v", gaps, w)
		}
	})
}

// A change of the network makes it look for UDP at once.
func TestLinkLooksForUDPWhenTheNetworkChanges(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, n, _ := enters(t, w, func(n *narrow, _ *Config) { n.open(nil, []uint16{443}, nil) })
		waitFor(t, "connected", 10*time.Second, connected(a))
		time.Sleep(90 * time.Second)
		n.open([]uint16{443}, []uint16{443}, nil)
		n.host.Readdress("192.168.2.77")
		took := waitFor(t, "over UDP", 20*time.Second, func() bool { return a.Status().Coordinator.Over == "udp" })
		t.Logf("after %v", took)
	})
}

// An agent that nothing reaches says so in one line, by reason, and tries all
// of it again less and less often.
func TestNothingPasses(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, n, _ := enters(t, w, func(_ *narrow, c *Config) {
			c.Host.FakeTCP, c.Host.NoFakeTCP = nil, &path.Failure{Reason: "unprivileged", Skipped: true}
		})
		time.Sleep(30 * time.Second)
		got := a.Status().Coordinator.Error
		want := "no way to the coordinator 203.0.113.10:443: UDP 53, 80, 123, 443, 500, 3478, 4500, 5060, 8443: no answer; " +
			"TLS 53, 80, 123, 443, 500, 3478, 4500, 5060, 8443: no answer; fake TCP was not tried: unprivileged; " +
			"is it running, and does this network let any of these pass?"
		if got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		count := func() int {
			n.mu.Lock()
			defer n.mu.Unlock()
			return len(n.took)
		}
		time.Sleep(5 * time.Minute)
		before := count()
		time.Sleep(10 * time.Minute)
		if tries := count() - before; tries > 10*(60/8+2*9)+20 {
			t.Errorf("%d tries over TLS in ten minutes", tries)
		}
		n.open(nil, []uint16{443}, nil)
		waitFor(t, "connected", 10*time.Second, connected(a))
	})
}

// The coordinator's name is looked up before each race; what goes by name
// does not wait for it. S0-26
func TestNameIsLookedUpOnEveryFailure(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.at = "vps.example:443"
		road, _ := w.road(natlab.Home())
		cfg := DefaultConfig()
		cfg.State, cfg.Host.Net, cfg.Dialers.Connect, cfg.Log = w.enrol("laptop"), road, connect, w.log
		a, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		at, asked := "203.0.113.99:443", 0
		a.link.resolve = func(context.Context, Coordinator) ([]netip.AddrPort, error) {
			mu.Lock()
			defer mu.Unlock()
			asked++
			return []netip.AddrPort{netip.MustParseAddrPort(at)}, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() { _ = a.Run(ctx) })
		defer func() { cancel(); wait.Wait() }()
		time.Sleep(30 * time.Second)
		mu.Lock()
		if asked < 3 {
			t.Errorf("asked %d times in 30 s", asked)
		}
		at = vpsAddr + ":443"
		mu.Unlock()
		waitFor(t, "connected", 12*time.Second, func() bool { return a.Status().Coordinator.Connected })
	})
}

// Where only a proxy leads out, DNS often does not work either: the proxy
// looks the name up.
func TestProxyByNameWithoutDNS(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.at = "vps.example:443"
		road, _ := w.road(natlab.Home())
		n := newNarrow(road)
		n.via = "proxy.example:3128"
		n.open(nil, []uint16{443}, nil)
		cfg := DefaultConfig()
		cfg.State, cfg.Host.Net, cfg.Dialers.Connect, cfg.Log = w.enrol("laptop"), road, connect, w.log
		n.use(&cfg)
		a, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		a.link.resolve = func(ctx context.Context, _ Coordinator) ([]netip.AddrPort, error) {
			select {
			case <-time.After(resolveWithin):
			case <-ctx.Done():
			}
			return nil, errors.New("look up vps.example: no answer")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wait sync.WaitGroup
		wait.Go(func() { _ = a.Run(ctx) })
		defer func() { cancel(); wait.Wait() }()
		took := waitFor(t, "connected", 10*time.Second, func() bool { return a.Status().Coordinator.Connected })
		s, v := a.Status().Coordinator, a.link.ways()
		if s.Via != n.via || s.Transport != "tls" || s.Addr != "vps.example:443" || took > time.Second {
			t.Errorf("after %v: %+v", took, s)
		}
		if len(v.tls) != 1 || v.tls[0] != "vps.example:443" || len(v.fakeTCP) > 0 {
			t.Errorf("%+v", v)
		}
	})
}

func TestTroublesAreGrouped(t *testing.T) {
	l := troubles{}
	at := func(port uint16) attempt {
		return attempt{at: fmt.Sprintf("vps.example:%d", port), over: proto.Transport_TRANSPORT_TLS, after: time.Second}
	}
	l.note(at(443), fmt.Errorf("dial coordinator x over TLS: %w", context.DeadlineExceeded))
	l.note(at(443), &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})
	l.note(at(80), syscall.ECONNREFUSED)
	for port := range uint16(5) {
		l.note(at(1000+port), fmt.Errorf("dial coordinator x over TLS: strange %d; is it right?", port))
	}
	want := "no way to the coordinator c:1: TLS 80, 443: refused; TLS 1000: strange 0; TLS 1001: strange 1; is it running, and does this network let any of these pass?"
	if got := l.sum("c:1", nil).Error(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := (troubles{}).sum("c:1", nil).Error(); !strings.Contains(got, "nothing was tried") {
		t.Error(got)
	}
}

func TestDoorsThatACoordinatorTells(t *testing.T) {
	var many []*proto.Door
	for i := range uint32(1000) {
		many = append(many, &proto.Door{Port: 65500 + i})
	}
	if got := doorsTold(append([]*proto.Door{{Port: 0}, {Port: 443}, {Port: 443}, nil}, many...)); len(got) != 1+28 {
		t.Errorf("%d doors", len(got))
	}
}

func TestNetworksAreRememberedByLastUse(t *testing.T) {
	s, err := NewState(t.TempDir(), "laptop", Coordinator{Addr: "c:1"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 40 {
		if err := s.SawWorking(Network{ID: fmt.Sprint(i), Port: uint16(i)}); err != nil {
			t.Fatal(err)
		}
		if err := s.SawWorking(Network{ID: "home", Port: 443}); err != nil {
			t.Fatal(err)
		}
	}
	if n, ok := s.Worked("home"); !ok || n.Port != 443 {
		t.Error("the one that is used is forgotten")
	}
	if _, ok := s.Worked("8"); ok || len(s.read().Networks) != maxNetworks {
		t.Errorf("%d networks", len(s.read().Networks))
	}
	if err := s.Joined("laptop", nil); err != nil {
		t.Fatal(err)
	}
	if again, err := OpenState(s.Dir()); err != nil || len(again.read().Networks) != maxNetworks {
		t.Errorf("%v", err)
	}
}
