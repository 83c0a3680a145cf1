package agent

import (
	"slices"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// firsts notes when each of two hosts first probes the other directly.
type firsts struct {
	mu sync.Mutex
	at map[string]time.Time
}

func watchFirsts(w *world) *firsts {
	f := &firsts{at: map[string]time.Time{}}
	w.lab.Watch(func(r natlab.Record) {
		if r.Event != natlab.Sent || r.Kind != proto.KindProbe || r.To.Addr().String() == vpsAddr {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.at[r.Place].IsZero() {
			f.at[r.Place] = r.At
		}
	})
	return f
}

// take gives the skew of the introduction that has just been, and forgets it.
func (f *firsts) take(t *testing.T, a, b string) time.Duration {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.at[a].IsZero() || f.at[b].IsZero() {
		t.Fatalf("no probes of both sides: %v", f.at)
	}
	skew := f.at[a].Sub(f.at[b]).Abs()
	clear(f.at)
	return skew
}

// forget ends the session on both sides, as if it had never been.
func forget(t *testing.T, a, b *running) {
	t.Helper()
	for _, side := range []struct{ of, peer *running }{{a, b}, {b, a}} {
		p := side.of.peer(side.peer.cfg.State.Name())
		if as := p.association(); as != nil {
			p.drop(as)
		}
		p.mu.Lock()
		p.tries.retryAt, p.tries.failures = time.Time{}, 0
		p.mu.Unlock()
	}
}

// S4-03
func TestBothSidesFireAtTheSameInstant(t *testing.T) {
	t.Parallel()
	for name, jitter := range map[string]time.Duration{"steady links": 0, "links with jitter": 5 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				home, _, carrier := w.home()
				road, cafe := w.road(natlab.Home())
				w.lab.Delay(carrier, w.vps, 10*time.Millisecond)
				w.lab.Delay(cafe, w.vps, 60*time.Millisecond)
				w.lab.Delay(carrier, cafe, 65*time.Millisecond)
				carrier.Set(natlab.Jitter(jitter))
				cafe.Set(natlab.Jitter(jitter))
				far := w.agent(home, "home", nil)
				laptop := w.agent(road, "laptop", nil)
				w.settle()
				probes := watchFirsts(w)
				var skews []time.Duration
				for i := range 30 {
					from, to := laptop, far
					if i%2 == 1 {
						from, to = far, laptop
					}
					reach(t, from, to.cfg.State.Name(), "direct-udp", 5*time.Second)
					skews = append(skews, probes.take(t, "home", "laptop"))
					forget(t, laptop, far)
					time.Sleep(time.Second)
				}
				slices.Sort(skews)
				median, most := skews[len(skews)/2], skews[len(skews)-1]
				t.Logf("30 introductions: median skew %v, maximum %v", median, most)
				if median > 5*time.Millisecond {
					t.Errorf("median skew %v, want at most 5ms", median)
				}
			})
		})
	}
}

func TestSetUpTakesThreeRoundTrips(t *testing.T) {
	t.Parallel()
	const rtt = 40 * time.Millisecond
	for name, again := range map[string]bool{"the first time ever": false, "known before": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				home, _, carrier := w.home()
				road, cafe := w.road(natlab.Home())
				for _, pair := range [][2]natlab.Station{{carrier, w.vps}, {cafe, w.vps}, {carrier, cafe}} {
					w.lab.Delay(pair[0], pair[1], rtt/2)
				}
				service := listen(t, home, serviceAt, true)
				far := w.agent(home, "home", exposing(t, "wg", "udp://"+serviceAt))
				laptop := w.agent(road, "laptop", dialing(t, "home", "wg", "udp://"+dialAt))
				w.settle()
				if again {
					reach(t, laptop, "home", "direct-udp", 5*time.Second)
					forget(t, laptop, far)
					time.Sleep(time.Second)
				}
				client := listen(t, road, "127.0.0.1:0", false)
				began := time.Now()
				client.send(dialAt, stamped(1, 148))
				reached := waitFor(t, "the datagram at the service", time.Second, func() bool { return len(service.arrivals()) > 0 })
				direct := waitFor(t, "direct-udp", time.Second, func() bool {
					return best(laptop, "home") == "direct-udp" && best(far, "laptop") == "direct-udp"
				}) + reached
				waitFor(t, "the answer", time.Second, func() bool { return len(client.arrivals()) > 0 })
				answered := client.arrivals()[0].at.Sub(began)
				t.Logf("with round trips of %v: at the service after %v, answer after %v, direct-udp on both sides after %v", rtt, reached, answered, direct)
				if reached > 3*rtt || direct > 4*rtt {
					t.Errorf("at the service after %v, want %v; direct-udp after %v, want %v", reached, 3*rtt, direct, 4*rtt)
				}
			})
		})
	}
}
