package agent

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// tuple is a 5-tuple of UDP as its sender has it.
type tuple struct {
	place    string
	from, to netip.AddrPort
}

// spell is when a tuple was used for probes and for the low-TTL datagram.
type spell struct {
	prime, first, last time.Time
	primeTTL           int
}

// punches keeps what two hosts sent straight to each other's networks.
type punches struct {
	mu   sync.Mutex
	used map[tuple]*spell
}

func watchPunches(w *world) *punches {
	p := &punches{used: map[tuple]*spell{}}
	w.lab.Watch(func(r natlab.Record) {
		if r.Event != natlab.Sent || r.To.Addr().String() == vpsAddr {
			return
		}
		if r.Kind != proto.KindPrime && r.Kind != proto.KindProbe && r.Kind != proto.KindProbeAnswer {
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		k := tuple{r.Place, r.From, r.To}
		s := p.used[k]
		if s == nil {
			s = &spell{}
			p.used[k] = s
		}
		switch {
		case r.Kind == proto.KindPrime:
			if s.prime.IsZero() {
				s.prime, s.primeTTL = r.At, r.TTL
			}
		default:
			if s.first.IsZero() {
				s.first = r.At
			}
			s.last = r.At
		}
	})
	return p
}

// of are the tuples of one host.
func (p *punches) of(place string) map[tuple]spell {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[tuple]spell{}
	for k, s := range p.used {
		if k.place == place {
			out[k] = *s
		}
	}
	return out
}

// lateOnce makes an agent hear late of its first introduction, so that the
// peer's probes come before anything of its own has opened its NAT.
func lateOnce() *middle {
	late := true
	hold := func(is bool) {
		if is && late {
			late = false
			time.Sleep(200 * time.Millisecond)
		}
	}
	return &middle{
		answer: func(_ *proto.ToCoordinator, m *proto.ToAgent) { hold(m.GetIntroduced() != nil) },
		event: func(m *proto.ToAgent) []*proto.ToAgent {
			hold(m.GetOffer() != nil)
			return []*proto.ToAgent{m}
		},
	}
}

func TestPoisonedPortsAreLeftForFreshOnes(t *testing.T) {
	t.Parallel()
	for _, poisoned := range []string{"laptop", "home"} {
		t.Run(poisoned, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				behaviours := map[string]natlab.Behaviour{"laptop": natlab.Home(), "home": natlab.Home(), poisoned: natlab.Poisonable()}
				ends := map[string]*middle{"laptop": {}, "home": {}, poisoned: lateOnce()}
				home := w.lab.NAT("router", "198.51.100.1", behaviours["home"]).Host("home", "192.168.1.2")
				road, _ := w.road(behaviours["laptop"])
				agents := map[string]*running{
					"home":   w.agent(home, "home", ends["home"].use),
					"laptop": w.agent(road, "laptop", ends["laptop"].use),
				}
				w.settle()
				seen := watchPunches(w)
				t.Logf("direct after %v", reach(t, agents["laptop"], "home", "direct-udp", 5*time.Second))
				if w.lab.Dropped(natlab.DropAccepted) == 0 {
					t.Fatal("the NAT was not poisoned: the test tests nothing")
				}
				direct := time.Now()
				time.Sleep(time.Minute)
				for place, a := range agents {
					if !leftMainPort(t, seen.of(place), a.mains[0].conn.LocalAddr().Port(), direct) {
						t.Errorf("%s used no fresh port", place)
					}
				}
				if line, err := agents["laptop"].Ping(t.Context(), "home"); err != nil || line.Path != "direct-udp" {
					t.Errorf("a minute later: %+v, %v", line, err)
				}
			})
		})
	}
}

// leftMainPort checks that probes from the main port ended soon, and says
// whether there were some from another.
func leftMainPort(t *testing.T, tuples map[tuple]spell, main uint16, direct time.Time) (fresh bool) {
	t.Helper()
	for k, s := range tuples {
		if k.from.Port() != main {
			fresh = true
			continue
		}
		t.Logf("%s probed %v from its main port for %v", k.place, k.to, s.last.Sub(s.first))
		if s.last.After(direct) || s.last.Sub(s.first) > time.Second {
			t.Errorf("%s probed %v on the poisoned 5-tuple for %v", k.place, k.to, s.last.Sub(s.first))
		}
	}
	return fresh
}

func TestLowTTLDatagramGoesBeforeTheProbes(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		w.agent(home, "home", nil)
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		seen := watchPunches(w)
		var primes, arrived int
		var mu sync.Mutex
		w.lab.Watch(func(r natlab.Record) {
			mu.Lock()
			defer mu.Unlock()
			if r.Kind == proto.KindPrime && r.Event == natlab.Sent {
				primes++
			}
			if r.Kind == proto.KindPrime && (r.Event == natlab.Delivered || r.Event == natlab.Dropped && r.Reason != natlab.DropTTL) {
				arrived++
			}
		})
		reach(t, laptop, "home", "direct-udp", 5*time.Second)
		for _, place := range []string{"laptop", "home"} {
			tuples := seen.of(place)
			if len(tuples) == 0 {
				t.Errorf("%s probed nothing", place)
			}
			for k, s := range tuples {
				if s.prime.IsZero() || s.prime.After(s.first) {
					t.Errorf("%s probed %v at %v, primed at %v", place, k.to, s.first, s.prime)
				}
				if s.primeTTL < 2 || s.primeTTL > 8 {
					t.Errorf("%s primed %v with a TTL of %d", place, k.to, s.primeTTL)
				}
			}
		}
		if primes < 2 || arrived > 0 {
			t.Errorf("%d primes were sent, %d of them got as far as the other side's network", primes, arrived)
		}
	})
}

// losing drops the first n probes that cross a station's link to an address
// that is not the coordinator's.
func losing(n int) natlab.Drop {
	return func(from, to netip.AddrPort, d []byte) bool {
		if k := proto.KindOf(d); k != proto.KindProbe && k != proto.KindProbeAnswer ||
			to.Addr().String() == vpsAddr || from.Addr().String() == vpsAddr || n == 0 {
			return false
		}
		n--
		return true
	}
}

func TestLostFirstProbesCostMilliseconds(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, carrier := w.home()
		road, cafe := w.road(natlab.Home())
		w.agent(home, "home", nil)
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		carrier.DropWhen(losing(4))
		cafe.DropWhen(losing(4))
		if took := reach(t, laptop, "home", "direct-udp", 5*time.Second); took > time.Second {
			t.Errorf("direct after %v", took)
		}
	})
}

func TestDirectThroughLoss(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, carrier := w.home()
		road, cafe := w.road(natlab.Home())
		far := w.agent(home, "home", nil)
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		carrier.Set(natlab.Delay(15 * time.Millisecond))
		cafe.Set(natlab.Delay(15*time.Millisecond), natlab.Loss(0.2))
		if _, err := laptop.findPeer(t.Context(), "home"); err != nil {
			t.Fatal(err)
		}
		var slowest time.Duration
		for range 10 {
			slowest = max(slowest, waitFor(t, "direct-udp", 8*time.Second, func() bool {
				laptop.peer("home").want("dial")
				return best(laptop, "home") == "direct-udp"
			}))
			forget(t, laptop, far)
			time.Sleep(time.Second)
		}
		t.Logf("ten introductions with 20 %% loss each way: direct after %v at most", slowest)
		if slowest > 2*time.Second {
			t.Errorf("direct after %v", slowest)
		}
	})
}

// Two NATs with no router between take each other's primes for their own; from new
// ports a router on the way drops them, and the probes find both NATs open.
func TestNeighbouringNATs(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorldOn(t, natlab.Options{Seed: 7, Hops: -1})
		near := w.lab.NAT("near", "198.51.100.1", natlab.Poisonable())
		far := w.lab.NAT("far", "198.51.100.129", natlab.Poisonable(), natlab.Delay(30*time.Millisecond))
		w.lab.Delay(near, far, time.Millisecond)
		w.agent(near.Host("home", "192.168.1.2"), "home", nil)
		laptop := w.agent(far.Host("laptop", "192.168.2.2"), "laptop", nil)
		w.settle()
		t.Logf("direct after %v", reach(t, laptop, "home", "direct-udp", 3*time.Second))
		if w.lab.Dropped(natlab.DropAccepted) == 0 || w.lab.Dropped(natlab.DropOption) == 0 {
			t.Errorf("the NATs took %d datagrams for their own, and dropped %d: the test tests nothing",
				w.lab.Dropped(natlab.DropAccepted), w.lab.Dropped(natlab.DropOption))
		}
	})
}
