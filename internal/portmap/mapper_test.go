package portmap

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/natlab/gateway"
)

// S4-14
func TestEachProtocolMapsKeepsAndTakesBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		options gateway.Options
		by      Protocol
		speaks  []Protocol
		remove  string
	}{
		"pcp":               {gateway.Options{PCP: true}, PCP, []Protocol{PCP}, "pcp delete"},
		"nat-pmp":           {gateway.Options{NATPMP: true}, NATPMP, []Protocol{NATPMP}, "pmp delete"},
		"upnp":              {gateway.Options{UPnP: true}, UPnP, []Protocol{UPnP}, "upnp delete"},
		"pcp and nat-pmp":   {gateway.Options{PCP: true, NATPMP: true}, PCP, []Protocol{PCP, NATPMP}, "pcp delete"},
		"nat-pmp and upnp":  {gateway.Options{NATPMP: true, UPnP: true}, NATPMP, []Protocol{NATPMP, UPnP}, "pmp delete"},
		"all":               {gateway.Options{PCP: true, NATPMP: true, UPnP: true}, PCP, []Protocol{PCP, NATPMP, UPnP}, "pcp delete"},
		"leases of 2 min":   {gateway.Options{PCP: true, Longest: 2 * time.Minute}, PCP, []Protocol{PCP}, "pcp delete"},
		"half a minute":     {gateway.Options{NATPMP: true, Longest: 30 * time.Second}, NATPMP, []Protocol{NATPMP}, "pmp delete"},
		"permanent by upnp": {gateway.Options{UPnP: true, OnlyPermanent: true}, UPnP, []Protocol{UPnP}, "upnp delete"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t, c.options)
				m, stop := w.run(udpPortOf(port))
				time.Sleep(5 * time.Second)
				got := only(t, m)
				want := Mapping{Port: udpPortOf(port), Protocol: c.by, Gateway: netip.MustParseAddr(lanGW),
					Internal: netip.MustParseAddrPort(lanPC + ":40112"), External: netip.MustParseAddrPort(wan + ":40112"), Until: got.Until}
				if got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
				if s := answered(m); !slices.Equal(s, c.speaks) {
					t.Errorf("%v answered, want %v", s, c.speaks)
				}
				for range 50 { // 5 h and 10 min
					if !w.reaches(got.External, v4(port)) {
						t.Fatal("a stranger does not reach us by the mapping")
					}
					time.Sleep(373 * time.Second)
				}
				if now := only(t, m); now.External != got.External {
					t.Errorf("after 5 h it is %v, was %v", now.External, got.External)
				}
				began := time.Now()
				stop()
				if took := time.Since(began); took > leaveWithin {
					t.Errorf("the end took %v", took)
				}
				if held := w.gw.Held(); len(held) != 0 || w.gw.Count(c.remove) == 0 {
					t.Errorf("the gateway still has %v; it was asked %v", held, w.gw.Asked())
				}
				if w.reaches(got.External, v4(port)) {
					t.Error("a stranger reaches us after the end")
				}
			})
		})
	}
}

// S4-15
func TestPinhole(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, gateway.Options{PCP: true, NATPMP: true, UPnP: true})
		at := netip.MustParseAddrPort("[" + pcSix + "]:40112")
		anywhere := netip.MustParseAddrPort("[::]:40112")
		if w.reaches(at, anywhere) {
			t.Fatal("the firewall lets strangers in")
		}
		m, stop := w.run(Port{Transport: UDP, Number: port, Six: true})
		time.Sleep(5 * time.Second)
		if got := only(t, m); got.External != at || got.Protocol != PCP {
			t.Errorf("got %+v", got)
		}
		if !w.reaches(at, anywhere) {
			t.Error("the pinhole lets nobody in")
		}
		stop()
		time.Sleep(time.Minute)
		if len(w.gw.Held()) != 0 || w.reaches(at, anywhere) {
			t.Errorf("the pinhole is still open: %v", w.gw.Held())
		}
	})
}

func TestPortsComeAndGo(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, gateway.Options{NATPMP: true})
		m, _ := w.run()
		time.Sleep(5 * time.Second)
		m.Map(udpPortOf(port))
		m.Map(udpPortOf(port))
		m.Map(Port{Transport: TCP, Number: 4711})
		time.Sleep(time.Second)
		if held := w.gw.Held(); len(held) != 2 || len(m.Mappings()) != 2 {
			t.Errorf("the gateway has %v, we %v", held, m.Mappings())
		}
		m.Unmap(udpPortOf(port))
		time.Sleep(time.Second)
		if got := only(t, m); got.Port.Number != 4711 || got.Port.Transport != TCP || len(w.gw.Held()) != 1 {
			t.Errorf("after Unmap: %+v, the gateway has %v", got, w.gw.Held())
		}
	})
}

// A gateway that restarts has forgotten everything; its clock shows it
// (RFC 6887 section 8.5). tailscale#18348: a renewal must be for the same
// internal port.
func TestRestartOfTheGateway(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]gateway.Options{"pcp": {PCP: true}, "nat-pmp": {NATPMP: true}, "upnp": {UPnP: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t, o)
				m, _ := w.run(udpPortOf(port), udpPortOf(port+1), udpPortOf(port+2))
				time.Sleep(10 * time.Minute)
				w.gw.Restart()
				m.Look()
				time.Sleep(time.Second)
				if held := w.gw.Held(); len(held) != 3 || len(m.Mappings()) != 3 {
					t.Errorf("after the restart the gateway has %v", held)
				}
				w.gw.Restart() // and nobody says so
				time.Sleep(renewMost)
				if held := w.gw.Held(); len(held) != 3 {
					t.Errorf("half an hour after the second restart the gateway has %v", held)
				}
				for internal, external := range w.gw.Held() {
					if internal.Port() != external {
						t.Errorf("%v is mapped at %d", internal, external)
					}
				}
				asked := len(w.gw.Asked())
				w.gw.Skew(-10 * time.Minute) // a clock that is wrong, now and always
				for range 12 {
					time.Sleep(10 * time.Minute)
					w.gw.Skew(-10 * time.Minute)
				}
				if now := len(w.gw.Asked()); now-asked > 60 || len(m.Mappings()) != 3 {
					t.Errorf("a wrong clock made us ask %d times in 2 h; mappings %v", now-asked, m.Mappings())
				}
			})
		})
	}
}

// A network in which nobody answers is left alone.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, gateway.Options{})
		m, stop := w.run(udpPortOf(port))
		time.Sleep(time.Minute)
		sent := w.lab.SentTo(netip.MustParseAddr(lanGW))
		if sent > 30 {
			t.Errorf("%d datagrams in the first minute", sent)
		}
		time.Sleep(24 * time.Hour)
		if more := w.lab.SentTo(netip.MustParseAddr(lanGW)) - sent; more > 30*30 {
			t.Errorf("%d datagrams in a day", more)
		}
		if len(m.Mappings()) != 0 || len(w.faults) != 0 {
			t.Errorf("mappings %v, faults %v", m.Mappings(), w.faults)
		}
		w.gw.Change(func(o *gateway.Options) { o.PCP = true }) // the owner turns it on
		m.Look()
		time.Sleep(time.Second)
		only(t, m)
		w.nat.Unplug()
		w.gw.Change(func(o *gateway.Options) { o.PCP = false })
		began := time.Now()
		stop()
		if took := time.Since(began); took > leaveWithin {
			t.Errorf("the end took %v where the gateway is silent", took)
		}
	})
}

// A protocol that refuses leaves it to the next.
func TestFallsBack(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, gateway.Options{PCP: true, UPnP: true, Answer: func(b []byte) []byte {
			if b[0] == 2 && b[1] == 0x81 {
				b[3] = 2 // NOT_AUTHORIZED
			}
			return b
		}})
		m, _ := w.run(udpPortOf(port))
		time.Sleep(5 * time.Second)
		if got := only(t, m); got.Protocol != UPnP {
			t.Errorf("got %+v", got)
		}
		if got := w.reasons(PCP); !slices.Equal(got, []string{refusedIt}) {
			t.Errorf("faults %v", got)
		}
	})
}

// The gateway's own way of mapping disappears: another is found.
func TestAnotherProtocolTakesOver(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, gateway.Options{PCP: true})
		m, _ := w.run(udpPortOf(port))
		time.Sleep(5 * time.Second)
		only(t, m)
		w.gw.Restart()
		w.gw.Change(func(o *gateway.Options) { o.PCP, o.UPnP, o.NATPMP = false, false, true })
		time.Sleep(2 * leaseWanted)
		if got := only(t, m); got.Protocol != NATPMP {
			t.Errorf("got %+v", got)
		}
	})
}

// Another network has another gateway.
func TestNetworkChange(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, gateway.Options{PCP: true})
		other := w.lab.NAT("other", "198.51.100.9", natlab.Home())
		second := gateway.Run(t, other.Host("other gateway", "192.168.7.1"), other, gateway.Options{NATPMP: true})
		at := netip.MustParseAddr(lanGW)
		m := New(w.config())
		m.cfg.Gateways = func() ([]Gateway, error) { return []Gateway{{Addr: at}}, nil }
		m.Map(udpPortOf(port))
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Run(ctx)
		}()
		time.Sleep(5 * time.Second)
		only(t, m)
		w.host.MoveTo(other, "192.168.7.2")
		at = netip.MustParseAddr("192.168.7.1")
		m.Look()
		time.Sleep(5 * time.Second)
		if got := only(t, m); got.External.Addr() != netip.MustParseAddr("198.51.100.9") {
			t.Errorf("got %+v", got)
		}
		cancel()
		<-done
		if len(second.Held()) != 0 {
			t.Errorf("it still has %v", second.Held())
		}
	})
}

func TestCheck(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, gateway.Options{PCP: true, NATPMP: true, UPnP: true, External: netip.MustParseAddr("100.64.0.7")})
		began := time.Now()
		states := Check(t.Context(), w.config(), udpPortOf(port))
		if took := time.Since(began); took > askWithin+leaveWithin {
			t.Errorf("it took %v", took)
		}
		i := slices.IndexFunc(states, func(s State) bool { return s.Gateway.Is4() })
		if i < 0 || !slices.Equal(states[i].Answered, []Protocol{PCP, NATPMP, UPnP}) || len(states[i].Mappings) != 1 ||
			states[i].External != netip.MustParseAddr("100.64.0.7") {
			t.Errorf("got %+v", states)
		}
		if held := w.gw.Held(); len(held) != 0 {
			t.Errorf("the gateway still has %v", held)
		}
	})
}
