package agent

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// liar is a STUN server that tells everybody the same address.
func (w *world) liar(name, at, says string) netip.AddrPort {
	w.t.Helper()
	here, lie := netip.MustParseAddrPort(at), netip.MustParseAddrPort(says)
	conn, err := w.lab.Host(name, here.Addr().String()).ListenUDP(here)
	if err != nil {
		w.t.Fatal(err)
	}
	r := stun.NewResponder(stun.Sockets{{here}})
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = path.Read(conn, func(b dgram.Burst) {
			if a, ok := r.Answer(time.Now(), stun.Socket{}, lie, b.Buf); ok {
				_ = conn.Write(dgram.One(b.Addr, a.Message))
			}
		})
	}()
	w.t.Cleanup(func() { _ = conn.Close(); <-done })
	return here
}

// naming has an agent told of these STUN servers, before the coordinator's own
// or in their place.
func naming(alone bool, servers ...netip.AddrPort) func(*Config) {
	m := &middle{}
	m.onAnswer(func(_ *proto.ToCoordinator, a *proto.ToAgent) {
		reg := a.GetRegistered()
		if reg == nil {
			return
		}
		var list []*proto.Endpoint
		for _, s := range servers {
			list = append(list, proto.NewEndpoint(s))
		}
		if alone {
			reg.Stun = list
		} else {
			reg.Stun = append(list, reg.Stun...)
		}
	})
	return m.use
}

// STUN only informs. Servers that lie, or that disagree so that mappings seem to
// depend on the destination, keep no two agents apart; and no mapping counts
// that no peer has proven.
//
// S4-18
func TestServersThatLieKeepNobodyApart(t *testing.T) {
	const stranger = "192.0.2.77:7777"
	for name, c := range map[string]struct {
		lies       int  // how many of the servers that are asked
		alone      bool // no others are named
		both       bool // to the laptop too
		road       natlab.Behaviour
		direct     time.Duration
		candidates int // that home offers
	}{
		"one lies to both": {1, false, true, natlab.Home(), time.Second, 3},
		"two lie to both":  {2, false, true, natlab.Home(), time.Second, 4},
		"all lie to home":  {2, true, false, natlab.Home(), time.Second, 4},
		"all lie to both":  {2, true, true, natlab.Home(), time.Second, 4},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				victim := w.lab.Host("stranger", "192.0.2.77")
				liars := []netip.AddrPort{w.liar("liar", "192.0.2.53:3478", stranger), w.liar("other-liar", "192.0.2.54:3478", "192.0.2.77:8888")}[:c.lies]
				home := w.lab.NAT("router", "198.51.100.1", natlab.Home()).Host("home", "192.168.1.2")
				road, _ := w.road(c.road)
				far := w.agent(home, "home", naming(c.alone, liars...))
				var told func(*Config)
				if c.both {
					told = naming(c.alone, liars...)
				}
				laptop := w.agent(road, "laptop", told)
				w.settle()
				time.Sleep(5 * time.Second)
				lied := slices.ContainsFunc(far.here.Load().candidates, func(k candidate) bool { return k.addr == netip.MustParseAddrPort(stranger) })
				if list := far.here.Load().candidates; !lied || len(list) != c.candidates {
					t.Errorf("home offers %v: the test tests nothing", list)
				}
				took := reach(t, laptop, "home", "direct-udp", c.direct)
				t.Logf("direct after %v", took)
				time.Sleep(time.Minute)
				for _, p := range laptop.Status().Peers[0].Paths {
					if at, err := netip.ParseAddrPort(p.Remote); err != nil || at.Addr() == victim.Addr() {
						t.Errorf("a path to the stranger: %+v", p)
					}
				}
				if n := w.lab.SentTo(victim.Addr()); n > 200 {
					t.Errorf("the stranger got %d datagrams", n)
				}
			})
		})
	}
}
