package punch

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// gunner is a Gunnery whose shots are noted.
type gunner struct {
	mu     sync.Mutex
	shots  map[netip.AddrPort]int
	from   map[dgram.Conn]int
	last   time.Time
	opened []dgram.Conn
	hits   netip.AddrPort // closes found
	found  chan struct{}
	ration *Ration
}

func newGunner() *gunner {
	return &gunner{shots: map[netip.AddrPort]int{}, from: map[dgram.Conn]int{}, found: make(chan struct{}), ration: NewRation(DefaultBudget)}
}

func (g *gunner) shoot(p path.Path) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shots[p.Addr]++
	g.from[p.Conn]++
	g.last = time.Now()
	if p.Addr == g.hits && g.shots[p.Addr] == 1 {
		close(g.found)
	}
	return nil
}

func (g *gunner) open(n int) []dgram.Conn {
	for range n {
		g.opened = append(g.opened, newSocket("0.0.0.0:6000"))
	}
	return g.opened
}

// climbs a rung that goes by a plan; nobody answers a probe of a candidate.
func (g *gunner) climb(t *testing.T, plan Plan, theirs *proto.Behaviour, candidates ...string) (time.Duration, error) {
	t.Helper()
	began := time.Now()
	r := &Rung{
		Conns: []dgram.Conn{newSocket("0.0.0.0:5000"), newSocket("0.0.0.0:5001"), newSocket("0.0.0.0:5002"), newSocket("0.0.0.0:5003")},
		Found: g.found, FireAt: began.Add(100 * time.Millisecond), RTT: 40 * time.Millisecond, Plan: plan,
		Gunnery: Gunnery{Shoot: g.shoot, Open: g.open, Theirs: theirs, Ration: g.ration},
	}
	for _, c := range candidates {
		r.Candidates = append(r.Candidates, ap(c))
	}
	err := r.Climb(t.Context(), newTried().try)
	return time.Since(began), err
}

func TestShotsAtPredictedPortsComeInRounds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGunner()
		took, err := g.climb(t, PlanFor(home, stepping, true, 2), stepping, outside)
		var f *path.Failure
		if !errors.As(err, &f) || took != 100*time.Millisecond+predicted {
			t.Errorf("%v after %v", err, took)
		}
		if len(g.shots) != window || len(g.from) != 1 {
			t.Errorf("%d ports from %d sockets", len(g.shots), len(g.from))
		}
		for at, n := range g.shots {
			if at.Addr() != ap(outside).Addr() || n != len(predictRounds) {
				t.Errorf("%v: %d shots", at, n)
			}
		}
	})
}

func TestASprayEndsWhenItHits(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		one := behaviour(apdm, apdm, func(b *proto.Behaviour) { b.PortLow, b.PortHigh = 20000, 20003 })
		g := newGunner()
		g.hits = netip.MustParseAddrPort("198.51.100.1:20003")
		took, err := g.climb(t, PlanFor(home, one, true, 2), one, outside)
		if err != nil || took > time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

func TestASprayKeepsToItsBudget(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGunner()
		began := time.Now()
		took, err := g.climb(t, PlanFor(home, scattered, true, 2), scattered, outside, second)
		if err == nil || took != 100*time.Millisecond+longest {
			t.Errorf("%v after %v", err, took)
		}
		if len(g.shots) != shots || g.ration.Sent.Load() != shots {
			t.Errorf("%d ports, %d counted", len(g.shots), g.ration.Sent.Load())
		}
		if least := shots / DefaultBudget.PerSecond * int(time.Second); g.last.Sub(began) < time.Duration(least) {
			t.Errorf("all were sent within %v", g.last.Sub(began))
		}
	})
}

// The side whose ports are scattered opens many mappings, quietly first.
func TestHoldingSideOpensMappings(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGunner()
		_, err := g.climb(t, PlanFor(scattered, home, true, 2), home, outside)
		if err == nil {
			t.Error("found")
		}
		if len(g.opened) != sprayed || g.shots[ap(outside)] != sprayed*len(holdRounds) {
			t.Errorf("%d sockets, shots: %v", len(g.opened), g.shots)
		}
		for _, c := range g.opened {
			if s := c.(*socket); len(s.primes) != 1 || s.ttl != DefaultPlan().PrimeTTL {
				t.Fatalf("primed %v with TTL %d", s.primes, s.ttl)
			}
		}
		if sent := g.ration.Sent.Load(); sent > 2500 {
			t.Errorf("%d datagrams", sent)
		}
	})
}

// A NAT that keeps a socket's port towards its first destination is shown one.
func TestSingleSocketsEachProbeOneCandidate(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newTried()
		conns := []dgram.Conn{newSocket("0.0.0.0:5000"), newSocket("0.0.0.0:5001"), newSocket("0.0.0.0:5002")}
		var mu sync.Mutex
		pairs := map[dgram.Conn][]netip.AddrPort{}
		rung := &Rung{Conns: conns, Candidates: []netip.AddrPort{ap(outside), ap(second)}, FireAt: time.Now(), Plan: PlanFor(kept, home, true, 2)}
		err := rung.Climb(t.Context(), func(ctx context.Context, p path.Path, k path.Kind) (time.Duration, error) {
			mu.Lock()
			pairs[p.Conn] = append(pairs[p.Conn], p.Addr)
			mu.Unlock()
			return r.try(ctx, p, k)
		})
		if err == nil {
			t.Error("found")
		}
		for i, c := range conns {
			want := ap([]string{outside, second}[i%2])
			if len(pairs[c]) != 1 || pairs[c][0] != want || len(c.(*socket).primes) != 1 {
				t.Errorf("socket %d probed %v and primed %v, want %v", i, pairs[c], c.(*socket).primes, want)
			}
		}
	})
}
