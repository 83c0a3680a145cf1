package agent

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/session"
)

// grave is a NAT's entry that went wrong in an outage: what uses its 5-tuple is
// dropped, and that keeps it there.
type grave struct {
	mu           sync.Mutex
	outage       bool
	inner, outer netip.AddrPort // of ours and of the peer
	last         time.Time      // when it was used last
	used         []time.Time    // once the outage was over
}

const graveHolds = 2 * time.Minute

func (g *grave) drop(from, to netip.AddrPort, _ []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if from == g.inner && to == g.outer {
		now := time.Now()
		if !g.outage {
			g.used = append(g.used, now)
		}
		if g.outage || now.Sub(g.last) < graveHolds {
			g.last = now
			return true
		}
	}
	return g.outage
}

// After an outage the agents punch from fresh ports, and what has died is let
// alone: else it would stay dead.
func TestDeadMappingsAreLetAlone(t *testing.T) {
	for name, c := range map[string]struct {
		outage time.Duration // of everything
		busy   bool
	}{
		"the mapping alone, busy": {0, true},
		"a minute, busy":          {time.Minute, true},
		"a minute, idle":          {time.Minute, false},
		"ten minutes, busy":       {10 * time.Minute, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				attic, _, _ := w.home()
				road, nat := w.road(natlab.Home())
				service, client := listen(t, attic, serviceAt, true), listen(t, road, "127.0.0.1:0", false)
				home := w.agent(attic, "home", exposing(t, "echo", "udp://"+serviceAt))
				laptop := w.agent(road, "laptop", dialing(t, "home", "echo", "udp://"+dialAt))
				w.settle()
				ageless(home, laptop)
				first := startStream(client, dialAt, 200*time.Millisecond)
				waitFor(t, "direct-udp", 20*time.Second, func() bool { return best(laptop, "home") == "direct-udp" })
				time.Sleep(5 * time.Second)
				at := laptop.peer("home").association().Paths()[0]
				g := &grave{outage: c.outage > 0, inner: netip.AddrPortFrom(netip.MustParseAddr("192.168.2.2"), at.Path.Conn.LocalAddr().Port()), outer: at.Path.Addr, last: time.Now()}
				t.Logf("the path that dies: %v to %v", g.inner, g.outer)
				nat.Block(g.drop)
				if !c.busy {
					first.end()
				}
				time.Sleep(c.outage)
				g.mu.Lock()
				g.outage = false
				g.mu.Unlock()
				over, consent := time.Now(), session.DefaultTimers().Consent
				if !c.busy {
					first = startStream(client, dialAt, 200*time.Millisecond)
				}
				took := waitFor(t, "a direct path that works", time.Minute, func() bool {
					as := laptop.peer("home").association()
					if as == nil || best(laptop, "home") != "direct-udp" {
						return false
					}
					// What nobody has used for long enough is dead no more.
					return c.outage > graveHolds || as.Paths()[0].Path != at.Path
				})
				time.Sleep(time.Minute)
				before := len(service.arrivals())
				time.Sleep(5 * time.Minute)
				if n := len(service.arrivals()) - before; n < 1490 {
					t.Errorf("%d datagrams of 1,500 arrived in five minutes", n)
				}
				first.end()
				g.mu.Lock()
				defer g.mu.Unlock()
				late := 0
				for _, at := range g.used {
					if at.Sub(over) > consent+5*time.Second {
						late++
					}
				}
				t.Logf("direct after %v; the dead 5-tuple was used %d times after the outage, %d times after consent to it had ended", took, len(g.used), late)
				if c.outage <= graveHolds && late > 0 {
					t.Errorf("the dead 5-tuple was used %d times after the outage, %d times after consent to it had ended", len(g.used), late)
				}
				if took > 20*time.Second {
					t.Errorf("direct after %v", took)
				}
			})
		})
	}
}
