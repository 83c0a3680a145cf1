package agent

import (
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
)

func TestLinksWithASmallMTU(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newTrip(t)
		r.cafe.Set(natlab.MTU(1400))
		r.client.send(dialAt, stamped(0, 100))
		waitFor(t, "direct-udp", 5*time.Second, func() bool { return best(r.laptop, "home") == "direct-udp" })
		time.Sleep(3 * time.Second)
		if mtu := r.laptop.Status().Peers[0].ServiceMTU; mtu > 1400-28-20 || mtu < 1300 {
			t.Errorf("datagrams of %d bytes cross whole, says status", mtu)
		}
		crosses := func(what string) int {
			before := len(r.client.arrivals())
			for i := range uint64(50) {
				r.client.send(dialAt, stamped(i, 1452))
				time.Sleep(20 * time.Millisecond)
			}
			time.Sleep(time.Second)
			n := len(r.client.arrivals()) - before
			t.Logf("%s: %d of 50 datagrams of 1452 bytes came back", what, n)
			return n
		}
		if n := crosses("links of 1400 bytes"); n != 50 {
			t.Errorf("%d of 50 came back", n)
		}
		// It shrinks: no ICMP tells, so this has to be noticed.
		r.cafe.Set(natlab.MTU(1300))
		crosses("just after it became 1300")
		for range 7 {
			crosses("later")
		}
		if n := crosses("at last"); n != 50 {
			t.Errorf("%d of 50 came back after the link's MTU shrank", n)
		}
		if best(r.laptop, "home") != "direct-udp" {
			t.Errorf("the path is %q", best(r.laptop, "home"))
		}
	})
}

func TestBySatellite(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newTrip(t)
		r.cafe.Set(natlab.Delay(300*time.Millisecond), natlab.Jitter(30*time.Millisecond))
		r.carrier.Set(natlab.Delay(150*time.Millisecond), natlab.Jitter(30*time.Millisecond))
		time.Sleep(time.Minute) // little is said meanwhile: the estimates lag behind
		began := time.Now()
		r.client.send(dialAt, stamped(0, 100))
		waitFor(t, "the answer", 8*time.Second, func() bool { return len(r.client.arrivals()) > 0 })
		t.Logf("the answer came after %v", time.Since(began))
		waitFor(t, "direct-udp", 20*time.Second, func() bool { return best(r.laptop, "home") == "direct-udp" })
		t.Logf("direct after %v", time.Since(began))
		s := startStream(r.client, dialAt, 50*time.Millisecond)
		defer s.end()
		time.Sleep(5 * time.Second)
		since := time.Now()
		time.Sleep(time.Minute)
		if g := gap(r.client, since, time.Now()); g > 300*time.Millisecond {
			t.Errorf("no answer for %v", g)
		}
		if best(r.laptop, "home") != "direct-udp" {
			t.Errorf("the path is %s", pathsText(r.laptop, "home"))
		}
		if n := len(r.service.sources()); n != 1 {
			t.Errorf("%d sources", n)
		}
	})
}

func TestIdlePathServesAtOnce(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newTrip(t, func(c *Config) { c.Flows.Unanswered, c.Flows.Answered = time.Hour, time.Hour })
		r.client.send(dialAt, stamped(0, 100))
		waitFor(t, "direct-udp", 5*time.Second, func() bool { return best(r.laptop, "home") == "direct-udp" })
		time.Sleep(30 * time.Minute) // NATs forget after 30 s and a minute
		r.client.send(dialAt, stamped(1, 100))
		took := waitFor(t, "the datagram", time.Second, func() bool { return len(r.service.arrivals()) == 2 })
		if took > 20*time.Millisecond || best(r.laptop, "home") != "direct-udp" {
			t.Errorf("%v over %s", took, pathsText(r.laptop, "home"))
		}
	})
}

func TestRelayedTrafficIsBackAfterTheCoordinatorsRestart(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newTrip(t)
		r.cafe.Behave(natlab.Cellular())
		s := startStream(r.client, dialAt, 20*time.Millisecond)
		defer s.end()
		waitFor(t, "relay-udp", 5*time.Second, func() bool { return best(r.laptop, "home") == "relay-udp" })
		time.Sleep(10 * time.Second)
		r.stop()
		time.Sleep(2 * time.Second)
		r.start()
		since := time.Now()
		time.Sleep(20 * time.Second)
		g := gap(r.client, since, time.Now())
		t.Logf("no answer for %v after it was back", g)
		if g > 6*time.Second {
			t.Errorf("no answer for %v after it was back", g)
		}
		if n := len(r.service.sources()); n != 1 {
			t.Errorf("%d sources", n)
		}
	})
}

func TestTwoLaptopsAndOneHome(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newTrip(t)
		other := r.cafe.Host("tablet", "192.168.2.3")
		tablet := r.agent(other, "tablet", dialing(t, "home", "echo", "udp://"+dialAt))
		r.settle()
		clients := []*station{r.client, listen(t, other, "127.0.0.1:0", false)}
		for i := range uint64(200) {
			for k, c := range clients {
				c.send(dialAt, stamped(i*2+uint64(k), 300))
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Second)
		for k, c := range clients {
			got := c.arrivals()
			if len(got) != 200 {
				t.Errorf("client %d got %d answers", k, len(got))
			}
			for _, a := range got {
				if a.data[7]&1 != byte(k) {
					t.Fatalf("client %d got the other's answer", k)
				}
			}
		}
		if n := len(r.service.sources()); n != 2 {
			t.Errorf("%d sources", n)
		}
		for _, a := range []*running{r.laptop, tablet} {
			if best(a, "home") != "direct-udp" {
				t.Errorf("%s: %s", a.cfg.State.Name(), pathsText(a, "home"))
			}
		}
	})
}

func TestNothingIsDeliveredTwice(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newTrip(t)
		r.cafe.Set(natlab.Duplicate(0.3), natlab.Reorder(0.2, 30*time.Millisecond), natlab.Loss(0.03))
		var clients []*station
		for range 20 { // each has a first datagram
			clients = append(clients, listen(t, r.roadHost, "127.0.0.1:0", false))
		}
		const rounds = 100
		for i := range uint64(rounds) {
			for k, c := range clients {
				c.send(dialAt, stamped(i*100+uint64(k), 100+int(i%3)*1000))
			}
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		seen := map[string]int{}
		for _, a := range r.service.arrivals() {
			seen[string(a.data)]++
		}
		for _, n := range seen {
			if n > 1 {
				t.Fatalf("a datagram came %d times", n)
			}
		}
		// Datagrams of 2,100 bytes are two on the wire.
		if n, all := len(seen), rounds*len(clients); n < all*85/100 {
			t.Errorf("%d of %d came; %v", n, all, r.home.Status().Counters)
		}
		if n := len(r.service.sources()); n != len(clients) {
			t.Errorf("%d sources of %d clients", n, len(clients))
		}
	})
}
