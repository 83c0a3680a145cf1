package agent

import (
	"slices"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
)

// Where a NAT ends mappings too soon to keep up with, explain says so on both
// sides, to who has had direct paths.
func TestExplainTellsOfMappingsThatEndTooSoon(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newTrip(t)
		r.client.send(dialAt, stamped(0, 100))
		waitFor(t, "direct-udp", 5*time.Second, func() bool { return best(r.laptop, "home") == "direct-udp" })
		tells := func(a *running, peer, side string) bool {
			e, err := a.Explain(t.Context(), peer)
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(e.Attempts, func(at Attempt) bool { return at.Reason == "short-lived" && at.Side == side })
		}
		for _, c := range []struct {
			known time.Duration
			want  bool
		}{{0, false}, {5 * time.Second, true}, {10 * time.Second, false}} {
			g := &r.laptop.nature.ages
			g.mu.Lock()
			g.enter(r.laptop.Agent)
			g.known, g.at = c.known, time.Now()
			g.mu.Unlock()
			if here, there := tells(r.laptop, "home", SideLocal), tells(r.home, "laptop", SideRemote); here != c.want || there != c.want {
				t.Errorf("%v: told %v here and %v there, want %v", c.known, here, there, c.want)
			}
		}
	})
}
