package agent

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

func TestBothDialEachOtherAtTheSameInstant(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, carrier := w.home()
		road, cafe := w.road(natlab.Home())
		w.lab.Delay(carrier, w.vps, 20*time.Millisecond)
		w.lab.Delay(cafe, w.vps, 20*time.Millisecond)
		var clients []*station
		var agents []*running
		for name, host := range map[string]*natlab.Host{"home": home, "laptop": road} {
			peer := map[string]string{"home": "laptop", "laptop": "home"}[name]
			listen(t, host, serviceAt, true)
			agents = append(agents, w.agent(host, name, func(c *Config) {
				exposing(t, "echo", "udp://"+serviceAt)(c)
				dialing(t, peer, "echo", "udp://"+dialAt)(c)
			}))
			clients = append(clients, listen(t, host, "127.0.0.1:0", false))
		}
		w.settle()
		for round := range 10 {
			for _, c := range clients {
				c.send(dialAt, fmt.Appendf(nil, "round %d", round))
				time.Sleep(time.Duration(round) * 4 * time.Millisecond) // from exactly together to one after the other
			}
			time.Sleep(1500 * time.Millisecond)
			for i, c := range clients {
				if got := len(c.arrivals()); got != round+1 {
					t.Fatalf("round %d: client %d has %d answers", round, i, got)
				}
			}
			for i, a := range agents {
				peer := agents[1-i].cfg.State.Name()
				if best(a, peer) != "direct-udp" {
					t.Errorf("round %d: %s", round, pathsText(a, peer))
				}
			}
			forget(t, agents[0], agents[1])
			time.Sleep(time.Second)
		}
	})
}

func TestPeerThatComesUpLaterIsReachedWithinASecond(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		service := listen(t, home, serviceAt, true)
		state := w.enrol("home")
		laptop := w.agent(road, "laptop", func(c *Config) {
			dialing(t, "home", "echo", "udp://"+dialAt)(c)
			dialing(t, "nobody", "echo", "udp://127.0.0.1:51999")(c)
		})
		w.settle()
		client := listen(t, road, "127.0.0.1:0", false)
		client.send("127.0.0.1:51999", []byte("is anybody there?"))
		s := startStream(client, dialAt, 100*time.Millisecond)
		defer s.end()
		time.Sleep(20 * time.Second)
		if _, err := laptop.Ping(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), "nobody") {
			t.Errorf("ping of a name that nobody has: %v", err)
		}
		e, err := laptop.Explain(t.Context(), "home")
		if err != nil || len(e.Attempts) == 0 || !strings.Contains(e.Attempts[0].Evidence, "not connected") {
			t.Errorf("explain of a peer that is down: %+v, %v", e, err)
		}
		far := w.run(home, state, exposing(t, "echo", "udp://"+serviceAt))
		waitFor(t, "home registers", 2*time.Second, func() bool { return far.Status().Coordinator.Connected })
		took := waitFor(t, "data", 5*time.Second, func() bool { return len(service.arrivals()) > 0 })
		t.Logf("data %v after the peer registered", took)
		if took > 1300*time.Millisecond {
			t.Errorf("data came %v after the peer registered", took)
		}
		// It says goodbye when it stops, and nobody waits for a timeout.
		far.stop()
		time.Sleep(200 * time.Millisecond)
		if got := best(laptop, "home"); got != "" {
			t.Errorf("after its goodbye the path is %q", got)
		}
		before := len(service.arrivals())
		time.Sleep(3 * time.Second)
		again := w.run(home, state, exposing(t, "echo", "udp://"+serviceAt))
		waitFor(t, "home registers", 2*time.Second, func() bool { return again.Status().Coordinator.Connected })
		took = waitFor(t, "data", 5*time.Second, func() bool { return len(service.arrivals()) > before })
		t.Logf("data %v after its restart", took)
		if took > 1300*time.Millisecond {
			t.Errorf("data came %v after its restart", took)
		}
	})
}

func TestASingleDatagramWaitsForThePeer(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		service := listen(t, home, serviceAt, true)
		state := w.enrol("home")
		laptop := w.agent(road, "laptop", dialing(t, "home", "echo", "udp://"+dialAt))
		w.settle()
		client := listen(t, road, "127.0.0.1:0", false)
		client.send(dialAt, []byte("once"))
		time.Sleep(4 * time.Second)
		w.run(home, state, exposing(t, "echo", "udp://"+serviceAt))
		time.Sleep(3 * time.Second)
		if len(service.arrivals()) != 1 || len(client.arrivals()) != 1 {
			t.Errorf("%d datagrams at the service, %d answers; %v", len(service.arrivals()), len(client.arrivals()), laptop.Status().Counters)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := laptop.Ping(ctx, "home"); err != nil {
			t.Error(err)
		}
	})
}

func TestWhatIsSentWhileThePathIsMadeArrivesInOrder(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newTrip(t)
		const n = 300
		for i := range uint64(n) {
			r.client.send(dialAt, stamped(i, 1000))
		}
		time.Sleep(3 * time.Second)
		there, back := r.service.arrivals(), r.client.arrivals()
		if len(there) != n || len(back) != n {
			t.Fatalf("%d of %d came to the service, %d back; %v", len(there), n, len(back), r.laptop.Status().Counters)
		}
		for i := range there {
			if got := binary.BigEndian.Uint64(there[i].data); got != uint64(i) {
				t.Fatalf("datagram %d came as number %d", got, i)
			}
		}
	})
}
