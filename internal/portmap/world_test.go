package portmap

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/gateway"
)

const (
	wan   = "198.51.100.1"
	lanGW = "192.168.1.1"
	lanPC = "192.168.1.2"
	pcSix = "2001:db8:1::2"
	gwSix = "2001:db8:1::1"
	port  = 40112
)

// world is a host behind a router that maps ports.
type world struct {
	t         *testing.T
	lab       *natlab.Lab
	nat       *natlab.NAT
	host      *natlab.Host
	neighbour *natlab.Host
	stranger  *natlab.Host
	gw        *gateway.Gateway

	mu      sync.Mutex
	faults  []Fault
	changes int
}

// newWorld is called inside a bubble.
func newWorld(t *testing.T, o gateway.Options) *world {
	t.Helper()
	w := &world{t: t, lab: natlab.New(t, natlab.Options{Seed: 1})}
	w.nat = w.lab.NAT("router", wan, natlab.Home(), natlab.Prefix("2001:db8:1::/64"))
	w.host = w.nat.Host("pc", lanPC, natlab.Also(pcSix))
	w.neighbour = w.nat.Host("neighbour", "192.168.1.3")
	w.stranger = w.lab.Host("stranger", "203.0.113.5", natlab.Also("2001:db8:f::5"))
	w.gw = gateway.Run(t, w.nat.Host("gateway", lanGW, natlab.Also(gwSix)), w.nat, o)
	return w
}

func (w *world) config() Config {
	return Config{Net: w.host, TCP: w.host,
		Gateways: func() ([]Gateway, error) {
			return []Gateway{{Addr: netip.MustParseAddr(lanGW)}, {Addr: netip.MustParseAddr(gwSix)}}, nil
		},
		Fault: func(f Fault) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.faults = append(w.faults, f)
			w.t.Logf("%v: %v: %s: %v", f.Gateway, f.Protocol, f.Reason, f.Err)
		},
		Changed: func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.changes++
		},
	}
}

// reasons are those of the faults of the IPv4 gateway so far, by protocol.
func (w *world) reasons(by Protocol) (list []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.faults {
		if f.Protocol == by && f.Gateway.Is4() {
			list = append(list, f.Reason)
		}
	}
	return list
}

// run starts a Mapper; stop ends it and waits.
func (w *world) run(ports ...Port) (m *Mapper, stop func()) {
	m = New(w.config())
	for _, p := range ports {
		m.Map(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wait sync.WaitGroup
	wait.Go(func() { m.Run(ctx) })
	stop = func() { cancel(); wait.Wait() }
	w.t.Cleanup(stop)
	return m, stop
}

// reaches says whether a stranger's datagram to an address arrives at our port.
func (w *world) reaches(to netip.AddrPort, local netip.AddrPort) bool {
	w.t.Helper()
	ours, err := w.host.ListenUDP(local)
	if err != nil {
		w.t.Fatal(err)
	}
	defer ours.Close()
	family := netip.IPv4Unspecified()
	if to.Addr().Is6() {
		family = netip.IPv6Unspecified()
	}
	theirs, err := w.stranger.ListenUDP(netip.AddrPortFrom(family, 0))
	if err != nil {
		w.t.Fatal(err)
	}
	defer theirs.Close()
	if err := theirs.Write(dgram.One(to, []byte("hello"))); err != nil {
		w.t.Fatal(err)
	}
	_ = ours.SetReadDeadline(time.Now().Add(time.Second))
	var a dgram.Arena
	defer a.Release()
	bursts, err := ours.Read(&a)
	return err == nil && len(bursts) == 1 && string(bursts[0].Buf) == "hello"
}

func udpPortOf(n uint16) Port { return Port{Transport: UDP, Number: n} }

func v4(n uint16) netip.AddrPort { return netip.AddrPortFrom(netip.IPv4Unspecified(), n) }

// only is the single mapping that there is.
func only(t *testing.T, m *Mapper) Mapping {
	t.Helper()
	list := m.Mappings()
	if len(list) != 1 {
		t.Fatalf("%d mappings, want one: %+v", len(list), list)
	}
	return list[0]
}

func answered(m *Mapper) (list []Protocol) {
	for _, s := range m.States() {
		for _, p := range s.Answered {
			if !slices.Contains(list, p) {
				list = append(list, p)
			}
		}
	}
	return list
}
