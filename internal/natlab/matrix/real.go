//go:build linux

package main

import (
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"rendezvous/internal/natlab/hop"
	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// realKind is a kind that nftables can make, on either side of the standard
// scene.
type realKind struct {
	name    string
	nat     netns.NAT
	carrier *netns.NAT // in front of it, at home; the laptop has the carrier's alone
	public  bool
}

func realKinds() []realKind {
	carrier := netns.CarrierGrade(20000, 22047)
	return []realKind{
		{name: "public", public: true},
		{name: "masquerade", nat: netns.Masquerade()},
		{name: "open filter", nat: netns.OpenFilter()},
		{name: "cgn", nat: netns.Masquerade(), carrier: &carrier},
		{name: "sequential", nat: netns.SequentialPorts(1)},
		{name: "random", nat: netns.RandomPorts()},
	}
}

// meeting is what came of one pair of the real programs.
type meeting struct {
	laptop, home string
	path         string // in the end
	took         []time.Duration
	failed       int
}

const (
	realPatience = 15 * time.Second
	exposeEcho   = "echo=udp://127.0.0.1:9000"
	dialEcho     = "home/echo=udp://127.0.0.1:9001"
	dialAddr     = "127.0.0.1:9001"
	idle         = time.Second // agents that have just registered become idle ones
)

// namespaces has the programs meet behind every two kinds.
func namespaces(t netns.T, times int) (all []meeting) {
	remove, err := netns.Provide(programs.Packages()...)
	t.Cleanup(remove)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, laptop := range realKinds() {
		for _, home := range realKinds() {
			if home.public && laptop.public {
				continue // no NAT, nothing to see
			}
			x := meeting{laptop: laptop.name, home: home.name, path: "-"}
			done := make(chan struct{})
			go func() {
				defer close(done)
				netns.Scope(t, func(inner netns.T) { x.meet(&attempted{T: inner}, laptop, home, times) })
			}()
			<-done
			x.failed = times - len(x.took)
			t.Logf("%s × %s: %d of %d direct, %s", x.laptop, x.home, len(x.took), times, x.path)
			all = append(all, x)
		}
	}
	return all
}

// meet starts both agents anew so many times.
func (x *meeting) meet(t netns.T, laptop, home realKind, times int) {
	n := situation(laptop, home).Start(t, exposeEcho, dialEcho)
	programs.Sink(n.Scene.Home, "127.0.0.1:9000")
	for i := range times {
		if i > 0 {
			anew(n)
		}
		time.Sleep(idle)
		load := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", dialAddr, "-size", "100", "-n", "10000", "-interval", "10ms")
		began := time.Now()
		for !x.direct(n) && time.Since(began) < realPatience {
			time.Sleep(20 * time.Millisecond)
		}
		if x.direct(n) {
			x.took = append(x.took, time.Since(began))
		}
		load.Kill()
	}
}

// direct says whether both sides' data goes directly, and notes the path.
func (x *meeting) direct(n *programs.Network) bool {
	here, err := n.Laptop.Peer("home")
	there, err2 := n.Home.Peer("laptop")
	if err != nil || err2 != nil || here.Path == "" {
		return false
	}
	x.path = here.Path
	return strings.HasPrefix(here.Path, "direct") && strings.HasPrefix(there.Path, "direct")
}

// anew starts both agents again, behind routers that remember nothing.
func anew(n *programs.Network) {
	n.Laptop.Stop()
	n.Home.Stop()
	for _, router := range []*netns.Host{n.HomeRouter, n.Carrier, n.LaptopRouter} {
		if router != nil {
			router.FlushConntrack()
		}
	}
	n.Home.Up("--expose", exposeEcho)
	n.Laptop.Up("--dial", dialEcho)
}

func situation(laptop, home realKind) programs.Situation {
	o := netns.DefaultOptions()
	o.HomeNAT, o.LaptopNAT, o.NoCarrier = home.nat, laptop.nat, home.carrier == nil
	if home.carrier != nil {
		o.CarrierNAT = *home.carrier
	}
	if laptop.carrier != nil {
		o.LaptopNAT = *laptop.carrier
	}
	return programs.Situation{Options: o, Arrange: func(s *netns.Scene) (homeGuise, laptopGuise netns.Guise) {
		if home.public {
			s.Home = exposed(s, "openhome", "192.0.2.0/25", "192.0.2.10", "laptoprouter", "vps")
		}
		if laptop.public {
			others := []string{"vps", "homerouter"}
			if home.carrier != nil {
				others[1] = "carrier"
			}
			s.Laptop = exposed(s, "openlaptop", "192.0.2.128/25", "192.0.2.130", others...)
		}
		return homeGuise, laptopGuise
	}}
}

// exposed is a host with a public address, as far from the others as they are
// from each other.
func exposed(s *netns.Scene, name, prefix, addr string, others ...string) *netns.Host {
	h := s.Public(name, prefix, addr)
	for _, other := range others {
		s.SetBoth(name, other, func(l *hop.Link) { l.Delay = netns.DefaultOptions().HomeLaptop })
	}
	return h
}

// attempted is a T whose failure ends the goroutine and nothing else.
type attempted struct {
	netns.T
	failed atomic.Bool
}

// Fatalf tells what happened and ends the attempt.
func (a *attempted) Fatalf(format string, args ...any) {
	a.failed.Store(true)
	a.Logf(format, args...)
	runtime.Goexit()
}

// Failed is what the lab asks before it throws logs away.
func (a *attempted) Failed() bool { return a.failed.Load() }
