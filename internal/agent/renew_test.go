package agent

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// aging is a carrier's NAT that ends mappings at an age.
func aging() natlab.Behaviour {
	return natlab.Behaviour{
		Filtering: natlab.AddressAndPortDependent, Ports: natlab.Random(1024, 65535),
		InboundRefresh: true, Absolute: time.Minute,
	}
}

// ageless has agents know that mappings end at no age here, so that no path gets
// a successor.
func ageless(agents ...*running) {
	for _, r := range agents {
		g := &r.nature.ages
		g.mu.Lock()
		g.enter(r.Agent)
		g.at = time.Now()
		g.mu.Unlock()
	}
}

// A steady flow loses nothing though the NAT ends mappings after a minute: not
// when that is known, and not when the network is new to the agents.
func TestPathsAreRenewedBeforeTheirMappingsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		home, road natlab.Behaviour
		raw        bool
	}{
		"at the initiator":           {home: natlab.Home(), road: aging()},
		"at the other":               {home: aging(), road: natlab.Home()},
		"at both":                    {home: aging(), road: aging()},
		"at the initiator, raw flow": {home: natlab.Home(), road: aging(), raw: true},
		"at the other, raw flow":     {home: aging(), road: natlab.Home(), raw: true},
	} {
		for when, begin := range map[string]func(t *testing.T, agents ...*running){
			"in a new network": func(*testing.T, ...*running) {},
			"once it is known": func(t *testing.T, agents ...*running) {
				waitFor(t, "the lifetime is learned", 10*time.Minute, func() bool {
					for i, b := range []natlab.Behaviour{c.home, c.road} {
						if b.Absolute > 0 && agents[i].nature.ages.lifetime(agents[i].Agent) == 0 {
							return false
						}
					}
					return true
				})
			},
		} {
			t.Run(name+" "+when, func(t *testing.T) {
				t.Parallel()
				bubble.Test(t, func(t *testing.T) { losesNothing(t, c.home, c.road, c.raw, begin) })
			})
		}
	}
}

func losesNothing(t *testing.T, far, near natlab.Behaviour, raw bool, begin func(t *testing.T, agents ...*running)) {
	w := newWorld(t)
	attic := w.lab.NAT("far", "198.51.100.1", far).Host("home", "10.0.0.2")
	road, _ := w.road(near)
	service, client := listen(t, attic, serviceAt, true), listen(t, road, "127.0.0.1:0", false)
	url := serviceAt
	if raw {
		url += "?raw"
	}
	home := w.agent(attic, "home", exposing(t, "echo", "udp://"+url))
	laptop := w.agent(road, "laptop", dialing(t, "home", "echo", "udp://"+dialAt))
	w.settle()
	begin(t, home, laptop)
	first := startStream(client, dialAt, 60*time.Millisecond)
	waitFor(t, "direct-udp", 20*time.Second, func() bool {
		return best(laptop, "home") == "direct-udp" && best(home, "laptop") == "direct-udp"
	})
	time.Sleep(5 * time.Second)
	first.end()
	time.Sleep(time.Second)
	there, back := len(service.arrivals()), len(client.arrivals())
	s := startStream(client, dialAt, 60*time.Millisecond)
	var ports []netip.AddrPort
	for range 300 {
		time.Sleep(time.Second)
		r := laptop.peer("home").association().Paths()[0]
		if len(ports) == 0 || ports[len(ports)-1] != r.Observed {
			ports = append(ports, r.Observed)
		}
		if got := best(laptop, "home"); got != "direct-udp" {
			t.Errorf("after %v data takes %s", time.Since(s.began), got)
		}
	}
	s.end()
	time.Sleep(time.Second)
	sent := int(s.sent.Load())
	there, back = len(service.arrivals())-there, len(client.arrivals())-back
	t.Logf("%d sent, %d arrived, %d came back; seen at %v", sent, there, back, ports)
	if there != sent || back != sent {
		t.Errorf("of %d datagrams %d arrived and %d came back", sent, there, back)
	}
	for _, r := range []*running{home, laptop} {
		for _, p := range r.peers.all() {
			as := p.association()
			as.mu.Lock()
			n := len(as.sockets.all)
			as.mu.Unlock()
			if n > 12 {
				t.Errorf("%d sockets are open, for %s", n, fmt.Sprintf("%+v", as.Paths()))
			}
		}
	}
}

func TestAgesOfMappings(t *testing.T) {
	for name, c := range map[string]struct {
		ends []int // seconds at which another mapping begins
		want time.Duration
		done bool
	}{
		"none":            {nil, 0, true},
		"a minute":        {[]int{31, 91, 151}, 55 * time.Second, true},
		"one restart":     {[]int{40}, 0, true},
		"too short":       {[]int{10, 20, 30, 40, 50, 60, 70, 80}, 5 * time.Second, true},
		"no rule":         {[]int{30, 75, 180, 210, 330, 380, 480, 510}, 0, true},
		"after a restart": {[]int{30, 50, 110, 170}, 55 * time.Second, true},
	} {
		t.Run(name, func(t *testing.T) {
			var r ageRecord
			began := time.Unix(0, 0)
			for s := 0; s < 1000; s += 5 {
				port := 1
				for _, end := range c.ends {
					if s >= end {
						port++
					}
				}
				got, done := r.saw(netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(port)), began.Add(time.Duration(s)*time.Second))
				if done {
					if got != c.want {
						t.Errorf("after %d s: %v, want %v", s, got, c.want)
					}
					return
				}
			}
			t.Error("the watch does not end")
		})
	}
}

// A short lifetime of idle mappings is found out in the background, and idle
// paths are probed often enough from then on; it is known the next time.
func TestIdlePathsAreHeldByWhatWasFound(t *testing.T) {
	for name, c := range map[string]struct {
		lifetime, want time.Duration
	}{
		"short": {12 * time.Second, 8 * time.Second},
		"long":  {5 * time.Minute, 144 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				home, _, _ := w.home()
				nat := natlab.Home()
				nat.Lifetime, nat.Unreplied = c.lifetime, 0
				road, _ := w.road(nat)
				w.agent(home, "home", nil)
				laptop := w.agent(road, "laptop", nil)
				w.settle()
				if got := laptop.keepalive(); got != 15*time.Second {
					t.Errorf("at first idle paths are probed every %v", got)
				}
				took := waitFor(t, "the lifetime", 10*time.Minute, func() bool { return laptop.keepalive() != 15*time.Second })
				t.Logf("%v after %v", laptop.keepalive(), took)
				if got := laptop.keepalive(); got != c.want {
					t.Errorf("idle paths are probed every %v, want %v", got, c.want)
				}
				if l := laptop.cfg.State.Lifetimes(laptop.fingerprint()); l.IdleAt.IsZero() || seconds(l.Idle) != time.Duration(float64(c.want)/keepaliveAt) {
					t.Errorf("the state has %+v", l)
				}
				laptop.cfg.Keepalive = 20 * time.Second
				if got := laptop.keepalive(); got != 20*time.Second {
					t.Errorf("the settings want 20 s, and it is %v", got)
				}
			})
		})
	}
}

// Where a path takes hundreds of ports to find, it gets no successors: that
// would be a spray at each. The relay takes over when it ends.
func TestSprayedPathsGetNoSuccessors(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		attic := w.lab.NAT("far", "198.51.100.1", natlab.Home()).Host("home", "10.0.0.2")
		nat := aging()
		nat.Mapping = natlab.AddressAndPortDependent
		road, _ := w.road(nat)
		service, client := listen(t, attic, serviceAt, true), listen(t, road, "127.0.0.1:0", false)
		w.agent(attic, "home", exposing(t, "echo", "udp://"+serviceAt))
		laptop := w.agent(road, "laptop", dialing(t, "home", "echo", "udp://"+dialAt))
		w.settle()
		waitFor(t, "the lifetime is learned", 10*time.Minute, func() bool { return laptop.nature.ages.lifetime(laptop.Agent) > 0 })
		s := startStream(client, dialAt, 60*time.Millisecond)
		waitFor(t, "direct-udp", 30*time.Second, func() bool { return best(laptop, "home") == "direct-udp" })
		shot := w.lab.SentTo(netip.MustParseAddr("198.51.100.129"))
		ways := map[string]int{}
		renewals := 0
		for range 300 {
			time.Sleep(time.Second)
			ways[best(laptop, "home")]++
			as := laptop.peer("home").association()
			as.mu.Lock()
			if !as.search.renewal.at.IsZero() {
				renewals++
			}
			as.mu.Unlock()
		}
		s.end()
		time.Sleep(time.Second)
		shot = w.lab.SentTo(netip.MustParseAddr("198.51.100.129")) - shot
		t.Logf("%v; %d of %d arrived; home sent %d datagrams to the laptop's NAT", ways, len(service.arrivals()), s.sent.Load(), shot)
		if ways[""] > 0 || renewals > 0 {
			t.Errorf("%d s without a path, renewals seen %d times", ways[""], renewals)
		}
		if lost := int(s.sent.Load()) - len(service.arrivals()); lost > 170 {
			t.Errorf("%d datagrams were lost", lost)
		}
	})
}

// Mappings that end after 10 s are kept up with: a steady flow loses nothing once
// that is known.
func TestTheYoungestMappingsAreRenewed(t *testing.T) {
	young := aging()
	young.Absolute = 10 * time.Second
	for name, c := range map[string]struct{ home, road natlab.Behaviour }{
		"at the initiator": {natlab.Home(), young},
		"at the other":     {young, natlab.Home()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				losesNothing(t, c.home, c.road, false, func(t *testing.T, agents ...*running) {
					waitFor(t, "the lifetime is learned", 10*time.Minute, func() bool {
						return max(agents[0].nature.ages.lifetime(agents[0].Agent), agents[1].nature.ages.lifetime(agents[1].Agent)) > 0
					})
				})
			})
		})
	}
}
