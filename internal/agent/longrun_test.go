package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// sizes is how much an agent keeps: what must not grow with time.
func sizes(a *running) map[string]int {
	out := map[string]int{"peers": len(a.peers.all())}
	a.board.mu.RLock()
	out["sessions"] = len(a.board.byToken)
	out["stun servers"] = len(a.board.stunAddrs)
	a.board.mu.RUnlock()
	for _, e := range a.mains {
		e.mu.RLock()
		out["routed addresses"] += len(e.byAddr)
		e.mu.RUnlock()
	}
	a.link.answers.mu.Lock()
	out["answers"] = len(a.link.answers.expected) + len(a.link.answers.early)
	a.link.answers.mu.Unlock()
	a.refusals.mu.Lock()
	out["refusals"] = len(a.refusals.noted)
	a.refusals.mu.Unlock()
	for _, p := range a.peers.all() {
		out["flows"] += p.flows.Len()
		for _, q := range []*queue{&p.queue, &p.ruled} {
			q.mu.Lock()
			out["held"] += len(q.list)
			q.mu.Unlock()
		}
		p.mu.Lock()
		out["raw flows"] += len(p.raws)
		out["attempts"] += len(p.log)
		out["asks"] += len(p.asks)
		current := p.current
		p.mu.Unlock()
		if current == nil {
			continue
		}
		out["paths"] += len(current.Paths())
		current.mu.Lock()
		out["sockets"] += len(current.sockets.all)
		out["legs"] += len(current.sockets.legs)
		out["offers"] += len(current.heard.made)
		current.mu.Unlock()
	}
	return out
}

// longer is d, and less under the race detector.
func longer(d time.Duration) time.Duration {
	if racing {
		return d / 24
	}
	return d
}

// notGrown compares two readings: each may be a little larger, for one thing
// or another is always under way.
func notGrown(t *testing.T, who string, before, after map[string]int) {
	t.Helper()
	bounds := map[string]int{"attempts": maxLog, "offers": maxOffers, "refusals": 20}
	for what, n := range after {
		if n > max(before[what]+4, bounds[what]) {
			t.Errorf("%s: %s grew from %d to %d", who, what, before[what], n)
		}
	}
	t.Logf("%s: %v", who, after)
}

func TestTwoHoursOfLightTraffic(t *testing.T) {
	t.Parallel()
	for name, road := range map[string]natlab.Behaviour{"direct-udp": natlab.Home(), "relay-udp": natlab.Cellular()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var home *natlab.Host
				if name == "direct-udp" {
					home, _, _ = w.home()
				} else {
					home = w.lab.NAT("mobile", "198.51.100.1", road).Host("home", "10.0.0.2")
				}
				where, cafe := w.road(road)
				var epochs [2]atomic.Uint64
				cafe.DropWhen(func(_, _ netip.AddrPort, d []byte) bool {
					if h, err := proto.ParseHeader(d); err == nil {
						epochs[h.Epoch].Add(1)
					}
					return false
				})
				service := listen(t, home, serviceAt, true)
				client := listen(t, where, "127.0.0.1:0", false)
				far := w.agent(home, "home", exposing(t, "echo", "udp://"+serviceAt))
				laptop := w.agent(where, "laptop", dialing(t, "home", "echo", "udp://"+dialAt))
				w.settle()
				s := startStream(client, dialAt, 10*time.Second)
				defer s.end()
				time.Sleep(5 * time.Minute)
				session := laptop.peer("home").association()
				before := []map[string]int{sizes(laptop), sizes(far)}
				since := time.Now()
				time.Sleep(longer(2 * time.Hour))
				if got := best(laptop, "home"); got != name {
					t.Errorf("the path is %q", got)
				}
				if laptop.peer("home").association() != session {
					t.Error("the session was replaced")
				}
				notGrown(t, "laptop", before[0], sizes(laptop))
				notGrown(t, "home", before[1], sizes(far))
				if g := gap(client, since, time.Now()); g > 11*time.Second {
					t.Errorf("no answer for %v", g)
				}
				if sent, got := s.sent.Load(), len(client.arrivals()); uint64(got)+5 < sent {
					t.Errorf("%d of %d were answered; %v", got, sent, laptop.Status().Counters)
				}
				if n := len(service.sources()); n != 1 {
					t.Errorf("the service saw %d sources", n)
				}
				if epochs[0].Load() == 0 || epochs[1].Load() == 0 {
					t.Errorf("no rekey: %d and %d datagrams of the two epochs", epochs[0].Load(), epochs[1].Load())
				}
				for reason, n := range laptop.Status().Counters {
					if reason == "bad-seal" || reason == "no-keys" || n > 50 {
						t.Errorf("%s: %d", reason, n)
					}
				}
			})
		})
	}
}

func TestADayWithoutTheCoordinator(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		// While it is down a dial just takes its time: a day of real QUIC
		// handshakes without answer would be most of what this test does.
		var down atomic.Bool
		r := newTrip(t, func(c *Config) {
			c.Dialers.Connect = func(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*Connection, error) {
				if down.Load() {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				return connect(ctx, pc, addr, pin, cert)
			}
		})
		s := startStream(r.client, dialAt, 30*time.Second)
		defer s.end()
		waitFor(t, "direct-udp", 5*time.Second, func() bool { return best(r.laptop, "home") == "direct-udp" })
		time.Sleep(time.Minute)
		before := []map[string]int{sizes(r.laptop), sizes(r.home)}
		r.stop()
		down.Store(true)
		since := time.Now()
		time.Sleep(longer(24 * time.Hour))
		if g := gap(r.client, since, time.Now()); g > 31*time.Second {
			t.Errorf("no answer for %v", g)
		}
		notGrown(t, "laptop", before[0], sizes(r.laptop))
		notGrown(t, "home", before[1], sizes(r.home))
		r.start()
		down.Store(false)
		back := waitFor(t, "both are registered", 20*time.Second, func() bool {
			return r.laptop.Status().Coordinator.Connected && r.home.Status().Coordinator.Connected
		})
		t.Logf("back after %v", back)
		if back > dialWithin+5*time.Second { // an attempt may be under way that heard nothing
			t.Errorf("back after %v", back)
		}
		time.Sleep(time.Minute)
		if got := fmt.Sprint(r.service.sources()); len(r.service.sources()) != 1 {
			t.Errorf("the service saw %s", got)
		}
		for _, p := range r.laptop.Status().Peers {
			if len(p.Paths) < 2 {
				t.Errorf("no spare again: %+v", p.Paths)
			}
		}
	})
}
