package punch

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

func TestABudgetMayOnlyBeLowered(t *testing.T) {
	for _, c := range []struct {
		b      Budget
		faults int
	}{
		{DefaultBudget, 0},
		{Budget{1, 1, 1}, 0},
		{Budget{0, -1, 2501}, 3},
		{Budget{501, 2000, 2500}, 1},
	} {
		if got := c.b.Faults(); len(got) != c.faults {
			t.Errorf("%+v: %q", c.b, got)
		}
	}
}

// Whatever is lowered is obeyed to the datagram, and the failure names it.
func TestLoweredBudgetsAreObeyed(t *testing.T) {
	for name, c := range map[string]struct {
		b    Budget
		most uint64
		key  string
	}{
		"attempt":        {Budget{500, 2000, 123}, 123, "punch.per_attempt"},
		"target":         {Budget{500, 77, 2500}, 77, "punch.per_target"},
		"pace":           {Budget{20, 2000, 2500}, 20 * 12, "punch.per_second"},
		"the whole plan": {DefaultBudget, shots, ""},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				g := newGunner()
				g.ration = NewRation(c.b)
				_, err := g.climb(t, PlanFor(home, scattered, true, 2), scattered, outside)
				var f *path.Failure
				if !errors.As(err, &f) {
					t.Fatal(err)
				}
				n := g.ration.Sent.Load()
				if n == c.most+1 && name == "pace" {
					n-- // the last is due at the very instant that the time is up
				}
				if n != c.most || len(g.shots) < int(n) || len(g.shots) > int(n)+1 {
					t.Errorf("%d sent, %d shots, want %d", n, len(g.shots), c.most)
				}
				if cut := c.key != ""; cut != (f.Reason == "budget") || !strings.Contains(f.Evidence, c.key) || (g.ration.Cut.Load() == 1) != cut {
					t.Errorf("%+v; %d cut", f, g.ration.Cut.Load())
				}
			})
		})
	}
}

func (g *gunner) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.shots)
}

// Attempts side by side share the pace, and one at a time sprays.
func TestAttemptsShareThePace(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g, h := newGunner(), newGunner()
		h.ration = g.ration
		over := make(chan error)
		go func() {
			_, err := g.climb(t, PlanFor(home, scattered, true, 2), scattered, outside)
			over <- err
		}()
		began := time.Now()
		go func() {
			_, err := h.climb(t, PlanFor(home, scattered, true, 2), scattered, second)
			over <- err
		}()
		time.Sleep(2 * time.Second)
		if n := g.ration.Sent.Load(); n > 1000 || g.count() > 0 && h.count() > 0 || !g.ration.Spraying() {
			t.Errorf("%d sent after 2 s, %d and %d", n, g.count(), h.count())
		}
		for range 2 {
			if err := <-over; err == nil {
				t.Error("found")
			}
		}
		if len(g.shots) != shots || len(h.shots) != shots || g.ration.Spraying() {
			t.Errorf("%d and %d", len(g.shots), len(h.shots))
		}
		if last := max(g.last.Sub(began), h.last.Sub(began)); last < 2*shots*time.Second/time.Duration(DefaultBudget.PerSecond) {
			t.Errorf("all were sent within %v", last)
		}
	})
}

func TestASprayThatGetsNoTurnSaysSo(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		g := newGunner()
		release, ok := g.ration.spray(t.Context())
		if !ok {
			t.Fatal("no turn")
		}
		defer release()
		_, err := g.climb(t, PlanFor(home, scattered, true, 2), scattered, outside)
		var f *path.Failure
		if !errors.As(err, &f) || f.Reason != "spray-busy" || len(g.shots) > 0 {
			t.Errorf("%v; %d shots", err, len(g.shots))
		}
	})
}

// refusing is a socket whose shots the network answers by ICMP.
type refusing struct {
	*socket
	on    bool
	share int // of how many one is refused
	shots int
}

func (r *refusing) CountRefusals(on bool) error {
	r.on = on
	return nil
}

func (r *refusing) Refusals() int {
	n := r.shots / r.share
	r.shots %= r.share
	return n
}

// A flood of refusals slows the shots down and ends them; few do neither.
func TestFloodsOfRefusalsAreBackedAwayFrom(t *testing.T) {
	for _, c := range []struct {
		share, most int
		least       time.Duration
	}{{1, 150, 680 * time.Millisecond}, {4, 150, 680 * time.Millisecond}, {10, shots, 2900 * time.Millisecond}} {
		bubble.Test(t, func(t *testing.T) {
			conn := &refusing{socket: newSocket("0.0.0.0:5000"), share: c.share}
			ration, began := NewRation(DefaultBudget), time.Now()
			var last time.Time
			r := &Rung{Conns: []dgram.Conn{conn}, FireAt: began, Plan: PlanFor(home, scattered, true, 2), Gunnery: Gunnery{
				Theirs: scattered, Ration: ration, Shoot: func(path.Path) error {
					conn.shots++
					last = time.Now()
					return nil
				}}}
			ctx, cancel := context.WithTimeout(t.Context(), longest)
			defer cancel()
			cut := r.shoot(ctx, []netip.AddrPort{ap(outside)})
			if flood := c.most < shots; (cut != nil) != flood || flood && cut.Reason != "refused" || int(ration.Sent.Load()) != c.most {
				t.Errorf("one of %d: %v after %d", c.share, cut, ration.Sent.Load())
			}
			if took := last.Sub(began); took < c.least || conn.on || ration.Refused.Load() < 30 {
				t.Errorf("one of %d: %v, still counting %v, %d refused", c.share, took, conn.on, ration.Refused.Load())
			}
		})
	}
}
