package agent

import (
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

// reach pings until the path is the wanted one, for d at most, and returns how
// long that took.
func reach(t *testing.T, from *running, peer, want string, d time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	var line PingLine
	var err error
	for time.Since(began) < d {
		if line, err = from.Ping(t.Context(), peer); err == nil && line.Path == want {
			return time.Since(began)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("no %s to %s within %v; last %+v, %v; explain %+v", want, peer, d, line, err, explained(t, from, peer))
	return 0
}

func explained(t *testing.T, a *running, peer string) []Attempt {
	t.Helper()
	e, err := a.Explain(t.Context(), peer)
	if err != nil {
		t.Fatal(err)
	}
	return e.Attempts
}

// S3-03
func TestPairsOfNATs(t *testing.T) {
	for _, c := range []struct {
		name string
		road natlab.Behaviour
		want string
	}{
		{"home router", natlab.Home(), "direct-udp"},
		{"router whose input accepts", natlab.Poisonable(), "direct-udp"},
		{"random port for each destination", natlab.Cellular(), "direct-udp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				home, _, _ := w.home()
				road, _ := w.road(c.road)
				w.agent(home, "home", nil)
				laptop := w.agent(road, "laptop", nil)
				w.settle()
				reach(t, laptop, "home", c.want, 10*time.Second)
				time.Sleep(20 * time.Second)
				if line, err := laptop.Ping(t.Context(), "home"); err != nil || line.Path != c.want {
					t.Errorf("later: %+v, %v", line, err)
				}
			})
		})
	}
}

func TestRandomPortsOnBothSidesRelayAndExplainWhyOnBothSides(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		far := w.lab.NAT("mobile", "198.51.100.1", natlab.Cellular()).Host("home", "10.0.0.2")
		road, _ := w.road(natlab.Cellular())
		home := w.agent(far, "home", nil)
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		reach(t, laptop, "home", "relay-udp", 5*time.Second)
		time.Sleep(10 * time.Second)
		for _, side := range []struct {
			a    *running
			peer string
		}{{laptop, "home"}, {home, "laptop"}} {
			sides := map[string]bool{}
			for _, at := range explained(t, side.a, side.peer) {
				if at.Path == "direct-udp" && at.Result == ResultFailed && at.Reason == "both-mappings-vary" {
					sides[at.Side] = true
				}
			}
			if !sides[SideLocal] || !sides[SideRemote] {
				t.Errorf("%s does not say why on both sides: %+v", side.a.cfg.State.Name(), explained(t, side.a, side.peer))
			}
		}
	})
}

func TestSameLANGoesByThePrivateAddresses(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		nat := w.lab.NAT("router", "198.51.100.1", natlab.Home())
		w.agent(nat.Host("home", "192.168.1.2"), "home", nil)
		laptop := w.agent(nat.Host("laptop", "192.168.1.3"), "laptop", nil)
		w.settle()
		reach(t, laptop, "home", "direct-udp", 5*time.Second)
		line, err := laptop.Ping(t.Context(), "home")
		if err != nil || !strings.HasPrefix(line.Remote, "192.168.1.2:") {
			t.Errorf("ping: %+v, %v", line, err)
		}
	})
}

func TestFlushedConnectionTrackingIsOverWithinTwoSeconds(t *testing.T) {
	for _, side := range []string{"carrier", "cafe"} {
		t.Run(side, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				home, _, carrier := w.home()
				road, cafe := w.road(natlab.Home())
				w.agent(home, "home", nil)
				laptop := w.agent(road, "laptop", nil)
				w.settle()
				reach(t, laptop, "home", "direct-udp", 5*time.Second)
				nat := map[string]*natlab.NAT{"carrier": carrier, "cafe": cafe}[side]
				nat.Reseed()
				nat.Flush()
				began := time.Now()
				for time.Since(began) < 5*time.Second {
					if _, err := laptop.Ping(t.Context(), "home"); err == nil {
						break
					}
				}
				if d := time.Since(began); d > 4*time.Second {
					t.Errorf("an answer came after %v", d)
				}
				reach(t, laptop, "home", "direct-udp", 30*time.Second)
			})
		})
	}
}

func TestCoordinatorRestartLeavesTheDirectPathAlone(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		far := w.agent(home, "home", nil)
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		reach(t, laptop, "home", "direct-udp", 5*time.Second)
		w.stop()
		for range 100 {
			if line, err := laptop.Ping(t.Context(), "home"); err != nil || line.Path != "direct-udp" {
				t.Fatalf("while the coordinator is away: %+v, %v", line, err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		w.start()
		time.Sleep(5 * time.Second)
		for _, a := range []*running{laptop, far} {
			if !a.Status().Coordinator.Connected {
				t.Errorf("%s is not back after 5 s: %+v", a.cfg.State.Name(), a.Status().Coordinator)
			}
		}
		reach(t, laptop, "home", "direct-udp", time.Second)
		time.Sleep(30 * time.Second)
		for _, p := range laptop.Status().Peers {
			spare := false
			for _, r := range p.Paths {
				spare = spare || r.Path == "relay-udp" && r.State == PathSpare
			}
			if !spare {
				t.Errorf("no spare after the coordinator came back: %+v", p.Paths)
			}
		}
	})
}

func TestRestartedPeerIsBackOnItsOwn(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		state := w.enrol("home")
		first := w.run(home, state, nil)
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		reach(t, laptop, "home", "direct-udp", 5*time.Second)
		first.stop()
		w.run(home, state, nil)
		w.settle()
		reach(t, laptop, "home", "direct-udp", 10*time.Second)
	})
}

func TestPathsThatAreNotAllowedAreNotTaken(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		w.agent(home, "home", nil)
		laptop := w.agent(road, "laptop", func(c *Config) {
			kinds, err := parsePaths([]string{"relay-udp"})
			if err != nil {
				t.Fatal(err)
			}
			c.Paths = kinds
		})
		w.settle()
		reach(t, laptop, "home", "relay-udp", 5*time.Second)
		time.Sleep(20 * time.Second)
		if line, _ := laptop.Ping(t.Context(), "home"); line.Path != "relay-udp" {
			t.Errorf("path %q", line.Path)
		}
		if at := explained(t, laptop, "home"); len(at) == 0 {
			t.Error("nothing explained")
		}
	})
}
