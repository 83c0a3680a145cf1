package agent

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// hard is a NAT whose mapping depends on the destination.
func hard(mapping natlab.Rule, ports natlab.Ports) natlab.Behaviour {
	return natlab.Behaviour{Mapping: mapping, Filtering: natlab.AddressAndPortDependent, Ports: ports, Lifetime: time.Minute}
}

// Mappings that depend on the destination, against each other and against home
// routers that filter by address and port.
//
// S4-02
func TestHardPairsAreJoined(t *testing.T) {
	const all = natlab.AddressAndPortDependent
	var (
		home      = natlab.Home()
		kept      = hard(all, natlab.Preserved())
		stepping  = hard(all, natlab.Sequential(1, 1024, 65535))
		steps2    = hard(all, natlab.Sequential(2, 1024, 65535))
		byAddress = hard(natlab.AddressDependent, natlab.Sequential(1, 1024, 65535))
		scattered = natlab.Cellular()
		admitting = hard(all, natlab.Random(1024, 65535))
	)
	admitting.Filtering = natlab.AddressDependent
	for name, c := range map[string]struct {
		home, road natlab.Behaviour
		within     time.Duration
	}{
		"step 1, home":            {home, stepping, 3 * time.Second},
		"home, step 1":            {stepping, home, 3 * time.Second},
		"step 2, home":            {home, steps2, 3 * time.Second},
		"by address, home":        {home, byAddress, 3 * time.Second},
		"by address, by address":  {byAddress, byAddress, 3 * time.Second},
		"step 1, step 1":          {stepping, stepping, 3 * time.Second},
		"step 2, step 1":          {steps2, stepping, 3 * time.Second},
		"kept, home":              {home, kept, 3 * time.Second},
		"kept, kept":              {kept, kept, 3 * time.Second},
		"kept, step 1":            {stepping, kept, 3 * time.Second},
		"step 2, kept":            {kept, steps2, 3 * time.Second},
		"step 1 by address, kept": {kept, byAddress, 3 * time.Second},
		// Of these some in a thousand take a second spray.
		"random, home":                   {home, scattered, 40 * time.Second},
		"home, random":                   {scattered, home, 40 * time.Second},
		"random, random that admits":     {scattered, admitting, 40 * time.Second},
		"step 1, random that admits":     {stepping, admitting, 40 * time.Second},
		"random that admits, home":       {admitting, home, 40 * time.Second},
		"router that accepts, random":    {natlab.Poisonable(), scattered, 40 * time.Second},
		"carrier's block before, random": {natlab.Carrier(), scattered, 40 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				far := w.lab.NAT("far", "198.51.100.1", c.home).Host("home", "10.0.0.2")
				road, _ := w.road(c.road)
				w.agent(far, "home", nil)
				laptop := w.agent(road, "laptop", nil)
				w.settle()
				time.Sleep(5 * time.Second) // both have studied their NAT
				took := reach(t, laptop, "home", "direct-udp", c.within)
				t.Logf("direct after %v; shots: %d", took, laptop.ration.Sent.Load())
			})
		})
	}
}

// What joined two networks comes first the next time, also after a restart.
func TestWhatJoinedTwoNetworksIsRemembered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		far := w.lab.NAT("far", "198.51.100.1", hard(natlab.AddressAndPortDependent, natlab.Sequential(1, 1024, 65535))).Host("home", "10.0.0.2")
		road, _ := w.road(natlab.Home())
		w.agent(far, "home", nil)
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		time.Sleep(5 * time.Second)
		reach(t, laptop, "home", "direct-udp", 3*time.Second)
		time.Sleep(time.Second)
		p := laptop.peer("home").association().pair()
		if got := laptop.cfg.State.JoinedBy(p); got != 2 {
			t.Errorf("remembered for %+v: attempt %d", p, got)
		}
		again, err := OpenState(laptop.cfg.State.Dir())
		if err != nil || again.JoinedBy(p) != 2 {
			t.Errorf("after a restart: attempt %d, %v", again.JoinedBy(p), err)
		}
		p.Attempt = 1
		if err := again.SawJoined(p); err != nil || again.JoinedBy(p) != 0 {
			t.Errorf("the first attempt needs no memory: %d, %v", again.JoinedBy(p), err)
		}
	})
}

// The coordinator may take its STUN servers away while new ports are opened.
func TestSampleWithoutServers(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		w.agent(home, "home", nil)
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		reach(t, laptop, "home", "direct-udp", 3*time.Second)
		state := laptop.cfg.State
		at, err := netip.ParseAddrPort(state.Coordinator().Addr)
		if err == nil {
			err = state.SawCoordinator(at, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
		o := &openings{as: laptop.peer("home").association()}
		if last := o.sample(t.Context()); last != 0 {
			t.Errorf("the newest port is %d", last)
		}
	})
}

func TestMemoryOfPairsIsBounded(t *testing.T) {
	s, err := NewState(t.TempDir(), "laptop", Coordinator{Addr: "c:1"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 * maxPairs {
		p := Pair{Network: "n", Peer: "home", Outside: fmt.Sprint("198.51.100.", i), Attempt: 2}
		if err := s.SawJoined(p); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(s.read().Pairs); n != maxPairs {
		t.Errorf("%d pairs", n)
	}
	if s.JoinedBy(Pair{Network: "n", Peer: "home", Outside: fmt.Sprint("198.51.100.", 2*maxPairs-1)}) != 2 {
		t.Error("the newest is forgotten")
	}
}
