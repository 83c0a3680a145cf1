package agent

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/seal"
	"rendezvous/internal/stripe"
	"rendezvous/proto"
)

// Where the coordinator is.
const (
	vpsAddr  = "203.0.113.10"
	vpsOther = "203.0.113.11"
	vpsSix   = "2001:db8:a::10"
)

// world is a coordinator on the in-memory internet and agents around it.
type world struct {
	t        *testing.T
	lab      *natlab.Lab
	vps      *natlab.Host
	registry *rendezvous.Registry
	secret   seal.Secret
	stop     func() // of the coordinator
	at       string // of the coordinator, as its links say
	log      zerolog.Logger
}

// newWorld starts a coordinator at vpsAddr. Call it inside a synctest bubble.
func newWorld(t *testing.T, options ...natlab.Option) *world {
	t.Helper()
	return newWorldOn(t, natlab.Options{Seed: 7}, options...)
}

// newWorldOn is newWorld on an internet of another kind.
func newWorldOn(t *testing.T, internet natlab.Options, options ...natlab.Option) *world {
	t.Helper()
	w := &world{t: t, lab: natlab.New(t, internet), secret: seal.NewSecret(), at: vpsAddr + ":443"}
	w.log = zerolog.New(zerolog.NewTestWriter(t)).With().Timestamp().Logger().Level(zerolog.DebugLevel)
	w.vps = w.lab.Host("vps", vpsAddr, append([]natlab.Option{natlab.Also(vpsOther, vpsSix)}, options...)...)
	registry, err := rendezvous.OpenRegistry(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w.registry = registry
	w.start()
	t.Cleanup(func() {
		w.stop()
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// start runs a coordinator over the world's registry; stop ends it.
func (w *world) start() {
	w.t.Helper()
	server, err := rendezvous.New(rendezvous.Config{
		Network: w.vps, Streams: w.vps, FakeTCP: w.vps, Registry: w.registry, Listen: netip.AddrPortFrom(netip.Addr{}, 443), Alternate: 3478,
		Public:     []netip.Addr{netip.MustParseAddr(vpsAddr), netip.MustParseAddr(vpsOther), netip.MustParseAddr(vpsSix)},
		PortConfig: rendezvous.PortConfig{Publish: []rendezvous.PublishRule{{Ports: []stripe.Range{{First: 51820, Last: 51829}}}}},
		Log:        w.log.With().Str("who", "coordinator").Logger(),
	})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := server.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	w.stop = func() { cancel(); wait.Wait() }
}

// enrol makes a member without the control connection's part of joining.
func (w *world) enrol(name string) *State {
	w.t.Helper()
	pin, err := w.registry.Pin()
	if err != nil {
		w.t.Fatal(err)
	}
	state, err := NewState(w.t.TempDir(), name, Coordinator{Addr: w.at, Pin: pin})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := state.Joined(name, &w.secret); err != nil {
		w.t.Fatal(err)
	}
	id := state.Identity()
	record, err := proto.Marshal(&proto.Record{Name: name, Key: id.Key(), StaticKey: id.StaticKey(), MadeUnix: time.Now().Unix()})
	if err != nil {
		w.t.Fatal(err)
	}
	token, err := w.registry.CreateInvite(time.Now(), time.Hour, 1, "a member")
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.registry.Enrol(time.Now(), rendezvous.Key(id.Key()), &proto.Enrol{
		Token: token[:], Name: name, StaticKey: id.StaticKey(), Record: seal.Sign(id, &w.secret, seal.ContextMember, record),
	}); err != nil {
		w.t.Fatal(err)
	}
	return state
}

// running is an agent of the world and how to end it.
type running struct {
	*Agent
	stop func()
}

// agent enrols and runs an agent on a host; configure may be nil.
func (w *world) agent(host dgram.Network, name string, configure func(*Config)) *running {
	w.t.Helper()
	return w.run(host, w.enrol(name), configure)
}

func (w *world) run(host dgram.Network, state *State, configure func(*Config)) *running {
	w.t.Helper()
	cfg := DefaultConfig()
	cfg.State, cfg.Host.Net, cfg.Version = state, host, "test"
	cfg.Host.Local, _ = host.(dgram.Streams)
	cfg.Dialers.Connect = connect
	cfg.Log = w.log.With().Str("who", state.Name()).Logger()
	if configure != nil {
		configure(&cfg)
	}
	a, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := a.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	r := &running{Agent: a, stop: func() { cancel(); wait.Wait() }}
	w.t.Cleanup(r.stop)
	return r
}

// settle lets agents register and learn their mapped addresses.
func (w *world) settle() { time.Sleep(3 * time.Second) }

// home is the usual place of the far service: a home router behind a carrier.
func (w *world) home(options ...natlab.Option) (*natlab.Host, *natlab.NAT, *natlab.NAT) {
	carrier := w.lab.NAT("carrier", "198.51.100.1", natlab.Carrier())
	router := carrier.NAT("router", "100.64.0.2", natlab.Home())
	return router.Host("home", "192.168.1.2", options...), router, carrier
}

// road is where a laptop is: behind another NAT.
func (w *world) road(b natlab.Behaviour, options ...natlab.Option) (*natlab.Host, *natlab.NAT) {
	nat := w.lab.NAT("cafe", "198.51.100.129", b)
	return nat.Host("laptop", "192.168.2.2", options...), nat
}

// connect makes real control connections.
func connect(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*Connection, error) {
	c, err := rendezvous.Dial(ctx, pc, addr, pin, cert)
	if err != nil {
		return nil, err
	}
	return &Connection{ControlConn: c, Addr: c.Addr(), RTT: c.RTT, Keep: c.Keep, Why: c.Err}, nil
}
