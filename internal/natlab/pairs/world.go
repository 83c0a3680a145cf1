// Package pairs lets agents behind all sorts of NATs meet, pair by pair, on the
// in-memory internet in virtual time: what docs/MATRIX.md says comes of it.
package pairs

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// Where the coordinator is.
const (
	vpsAddr  = "203.0.113.10"
	vpsOther = "203.0.113.11"
	vpsSix   = "2001:db8:a::10"
)

// world is a coordinator on the in-memory internet, and agents around it that
// stay registered while they meet one after the other.
type world struct {
	t        testing.TB
	dir      string
	lab      *natlab.Lab
	vps      *natlab.Host
	registry *rendezvous.Registry
	secret   seal.Secret
	ends     []func()
	delay    time.Duration // one way, of each link
}

// newWorld starts a coordinator. roundTrip is that of any two hosts.
func newWorld(t testing.TB, seed uint64, roundTrip time.Duration) *world {
	t.Helper()
	w := &world{t: t, lab: natlab.New(t, natlab.Options{Seed: seed, Records: -1}), secret: seal.NewSecret(), delay: roundTrip / 4}
	w.dir = stateDir(t)
	w.vps = w.lab.Host("vps", vpsAddr, natlab.Also(vpsOther, vpsSix), natlab.Delay(w.delay))
	registry, err := rendezvous.OpenRegistry(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	w.registry = registry
	w.ends = append(w.ends, func() {
		if err := registry.Close(); err != nil {
			t.Error(err)
		}
	})
	server, err := rendezvous.New(rendezvous.Config{
		Network: w.vps, Streams: w.vps, FakeTCP: w.vps, Registry: registry, Listen: netip.AddrPortFrom(netip.Addr{}, 443), Alternate: 3478,
		Public: []netip.Addr{netip.MustParseAddr(vpsAddr), netip.MustParseAddr(vpsOther), netip.MustParseAddr(vpsSix)},
		Log:    zerolog.Nop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.run("the coordinator", server.Run)
	return w
}

// stateDir is a folder in memory where there is such a thing: what agents keep
// is written to disk for sure, which takes a disk's time.
func stateDir(t testing.TB) string {
	t.Helper()
	for _, base := range []string{"/dev/shm", ""} {
		dir, err := os.MkdirTemp(base, "pairs-")
		if err == nil {
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			return dir
		}
	}
	t.Fatal("there is no folder for the state of agents; set TMPDIR to one that can be written")
	return ""
}

// run starts f and has close end it.
func (w *world) run(who string, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := f(ctx); err != nil {
			w.t.Errorf("%s: %v", who, err)
		}
	})
	w.ends = append(w.ends, func() { cancel(); wait.Wait() })
}

// close ends all agents, then the coordinator.
func (w *world) close() {
	for i := len(w.ends) - 1; i >= 0; i-- {
		w.ends[i]()
	}
	w.lab.Close()
}

// member is an agent on a host behind NATs of its own.
type member struct {
	kind  Kind
	name  string
	agent *agent.Agent
	nats  []*natlab.NAT
	paths *pathLog
	sent  atomic.Int64 // datagrams and segments to others than the coordinator
	met   map[*member]int
}

// join puts the member number n behind a NAT of kind k and runs its agent.
func (w *world) join(k Kind, n int) *member {
	w.t.Helper()
	host, nats := k.place(w.lab, n, w.delay)
	return w.member(k, host, nats)
}

// member runs an agent on a host.
func (w *world) member(k Kind, host *natlab.Host, nats []*natlab.NAT) *member {
	w.t.Helper()
	m := &member{kind: k, name: host.Name(), nats: nats, met: make(map[*member]int), paths: newPathLog()}
	host.Meter(m.count)
	cfg := agent.DefaultConfig()
	cfg.State, cfg.Version = w.enrol(m), "matrix"
	cfg.Log = zerolog.New(m.paths).Level(zerolog.InfoLevel)
	equip(&cfg, host)
	a, err := agent.New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	m.agent = a
	w.run(m.name, a.Run)
	return m
}

// enrol makes m a member of the network without the control connection's part.
func (w *world) enrol(m *member) *agent.State {
	w.t.Helper()
	state, err := w.tryEnrol(m)
	if err != nil {
		w.t.Fatalf("enrol %s: %v", m.name, err)
	}
	return state
}

func (w *world) tryEnrol(m *member) (*agent.State, error) {
	at := vpsAddr + ":443"
	if m.kind.NoIPv4 {
		at = "[" + vpsSix + "]:443"
	}
	pin, err := w.registry.Pin()
	if err != nil {
		return nil, err
	}
	state, err := agent.NewState(filepath.Join(w.dir, m.name), m.name, agent.Coordinator{Addr: at, Pin: pin})
	if err != nil {
		return nil, err
	}
	id := state.Identity()
	record, err := proto.Marshal(&proto.Record{Name: m.name, Key: id.Key(), StaticKey: id.StaticKey(), MadeUnix: time.Now().Unix()})
	if err != nil {
		return nil, err
	}
	token, err := w.registry.CreateInvite(time.Now(), time.Hour, 1, "a member")
	if err != nil {
		return nil, err
	}
	_, err = w.registry.Enrol(time.Now(), rendezvous.Key(id.Key()), &proto.Enrol{
		Token: token[:], Name: m.name, StaticKey: id.StaticKey(), Record: seal.Sign(id, &w.secret, seal.ContextMember, record),
	})
	return state, errors.Join(err, state.Joined(m.name, &w.secret))
}

// equip gives an agent all that it can reach others with, as the command does
// for root.
func equip(cfg *agent.Config, host *natlab.Host) {
	d := &rendezvous.TLSDialer{
		Dial: func(ctx context.Context, _, addr string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(addr)
			if err != nil {
				return nil, err
			}
			from := netip.IPv4Unspecified()
			if to.Addr().Is6() {
				from = netip.IPv6Unspecified()
			}
			return host.DialTCP(ctx, netip.AddrPortFrom(from, 0), to)
		},
		Proxy: func(string) (*url.URL, error) { return nil, nil },
	}
	cfg.Host.Net, cfg.Host.TCP, cfg.Host.Local, cfg.Host.FakeTCP = host, host, host, host
	cfg.Dialers.Connect = func(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*agent.Connection, error) {
		c, err := rendezvous.Dial(ctx, pc, addr, pin, cert)
		if err != nil {
			return nil, err
		}
		return &agent.Connection{ControlConn: c, Addr: c.Addr(), Transport: "quic", RTT: c.RTT, Keep: c.Keep, Why: c.Err}, nil
	}
	cfg.Dialers.ConnectTLS = func(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (*agent.Connection, error) {
		c, err := d.Connect(ctx, at, pin, cert)
		if err != nil {
			return nil, err
		}
		return &agent.Connection{ControlConn: c, Addr: c.Addr(), Transport: "tls", RTT: c.RTT, Why: c.Err}, nil
	}
	cfg.Dialers.RelayTLS = func(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (dgram.Conn, netip.AddrPort, error) {
		return d.Relay(ctx, at, pin, cert)
	}
}

// ready waits until all members are connected.
func (w *world) ready(all []*member) error {
	const limit = 20 * time.Second
	for began := time.Now(); time.Since(began) < limit; time.Sleep(100 * time.Millisecond) {
		missing := ""
		for _, m := range all {
			if !m.agent.Status().Coordinator.Connected {
				missing = m.name
				break
			}
		}
		if missing == "" {
			time.Sleep(3 * time.Second) // addresses are gathered, NATs' first flows grow old
			return nil
		}
	}
	for _, m := range all {
		if c := m.agent.Status().Coordinator; !c.Connected {
			return fmt.Errorf("%s is not connected to the coordinator after %v: %s", m.name, limit, c.Error)
		}
	}
	return nil
}
