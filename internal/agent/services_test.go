package agent

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

func TestTwoHundredClientsAtOnceEachHaveASocketBeforeTheService(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newTrip(t)
		const n = 200
		var clients []*station
		for range n {
			clients = append(clients, listen(t, r.roadHost, "127.0.0.1:0", false))
		}
		for i, c := range clients {
			c.send(dialAt, stamped(uint64(i), 100))
		}
		time.Sleep(2 * time.Second)
		if got := len(r.service.sources()); got != n {
			t.Errorf("the service saw %d clients, want %d", got, n)
		}
		for i, c := range clients {
			got := c.arrivals()
			if len(got) != 1 || binary.BigEndian.Uint64(got[0].data) != uint64(i) || got[0].from.String() != dialAt {
				t.Fatalf("client %d got %d datagrams: %v", i, len(got), got)
			}
		}
		// And all of them many times, in both directions.
		for round := range uint64(5) {
			for i, c := range clients {
				c.send(dialAt, stamped(round*n+uint64(i), 1200))
			}
			time.Sleep(200 * time.Millisecond)
		}
		for i, c := range clients {
			if got := len(c.arrivals()); got != 6 {
				t.Fatalf("client %d got %d datagrams, want 6", i, got)
			}
		}
		if got := len(r.service.sources()); got != n {
			t.Errorf("the service saw %d source addresses, want %d", got, n)
		}
	})
}

func TestDatagramsOfEverySizeCrossWhole(t *testing.T) {
	t.Parallel()
	sizes := []int{0, 1, 15, 16, 17, 64, 1099, 1100, 1101, 1180, 1199, 1200, 1232, 1399, 1400, 1432, 1451, 1452, 1453, 1472, 1500,
		2000, 4096, 9000, 16384, 30000, 60000, 65506, 65507}
	for name, paths := range map[string][]path.Kind{"direct-udp": nil, "relay-udp": {path.RelayUDP}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t)
				home, _, _ := w.home()
				road, _ := w.road(natlab.Home())
				service := listen(t, home, serviceAt, true)
				w.agent(home, "home", exposing(t, "echo", "udp://"+serviceAt))
				laptop := w.agent(road, "laptop", func(c *Config) {
					dialing(t, "home", "echo", "udp://"+dialAt)(c)
					c.Paths = paths
				})
				w.settle()
				random := rand.New(rand.NewPCG(1, 2))
				var sent [][]byte
				send := func(client *station, size int) {
					d := make([]byte, size)
					for i := range d {
						d[i] = byte(random.Uint32())
					}
					sent = append(sent, d)
					client.send(dialAt, d)
				}
				// The first of a flow is on its own: it opens it.
				for _, size := range []int{0, 65507, 1101, 1100} {
					client := listen(t, road, "127.0.0.1:0", false)
					send(client, size)
					time.Sleep(time.Second)
					if got := client.arrivals(); len(got) != 1 || len(got[0].data) != size {
						t.Errorf("a first datagram of %d bytes: %d came back", size, len(got))
					}
				}
				client := listen(t, road, "127.0.0.1:0", false)
				before := len(sent)
				for _, size := range sizes {
					send(client, size)
					time.Sleep(20 * time.Millisecond)
				}
				time.Sleep(2 * time.Second)
				if at := best(laptop, "home"); at != name {
					t.Fatalf("the path is %q", at)
				}
				there := service.arrivals()
				if len(there) != len(sent) {
					t.Fatalf("%d of %d datagrams came to the service; %v", len(there), len(sent), laptop.Status().Counters)
				}
				for i := range sent {
					if !bytes.Equal(there[i].data, sent[i]) {
						t.Errorf("datagram %d: %d bytes sent, %d came, or others", i, len(sent[i]), len(there[i].data))
					}
				}
				back := client.arrivals()
				if len(back) != len(sizes) {
					t.Fatalf("%d of %d came back", len(back), len(sizes))
				}
				for i, d := range sent[before:] {
					if !bytes.Equal(back[i].data, d) {
						t.Errorf("answer %d: %d bytes, want %d", i, len(back[i].data), len(d))
					}
				}
			})
		})
	}
}

// onlySource checks that the service still sees the client by one address, and
// that traffic flows.
func (r *trip) onlySource(what string) {
	r.t.Helper()
	before := len(r.service.arrivals())
	time.Sleep(time.Second)
	if got := len(r.service.arrivals()) - before; got < 30 {
		r.t.Errorf("%s: only %d datagrams in a second", what, got)
	}
	if got := r.service.sources(); len(got) != 1 {
		r.t.Errorf("%s: the service sees %v", what, got)
	}
}

func TestFarSocketStaysWhenThePathMovesAndWhenTheSessionIsReplaced(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newTrip(t)
		s := startStream(r.client, dialAt, 20*time.Millisecond)
		defer s.end()
		direct := func() bool { return best(r.laptop, "home") == "direct-udp" && best(r.home, "laptop") == "direct-udp" }
		waitFor(t, "direct-udp", 5*time.Second, direct)
		r.onlySource("from the relay to direct")

		outside := func(from, to netip.AddrPort, _ []byte) bool {
			return !strings.HasPrefix(from.String(), vpsAddr) && !strings.HasPrefix(to.String(), vpsAddr)
		}
		r.cafe.DropWhen(outside)
		waitFor(t, "relay-udp", 5*time.Second, func() bool { return best(r.laptop, "home") == "relay-udp" })
		time.Sleep(2 * time.Second)
		r.onlySource("back to the relay")
		r.cafe.DropWhen(nil)
		waitFor(t, "direct-udp", 3*time.Minute, direct)
		r.onlySource("direct again")

		for _, side := range []struct {
			of   *running
			peer string
		}{{r.laptop, "home"}, {r.home, "laptop"}} {
			session := side.of.peer(side.peer).association()
			side.of.peer(side.peer).ended(session, "the test says so")
			waitFor(t, "another session", 5*time.Second, func() bool {
				as := side.of.peer(side.peer).association()
				return as != nil && as != session && as.Ready()
			})
			time.Sleep(time.Second)
			r.onlySource("after the session of " + side.of.cfg.State.Name() + " was lost")
		}

		r.stop()
		time.Sleep(time.Second)
		r.start()
		time.Sleep(10 * time.Second)
		r.onlySource("after the coordinator's restart")
		var last uint64
		for _, a := range r.service.arrivals() {
			last = max(last, binary.BigEndian.Uint64(a.data))
		}
		if lost := last + 1 - uint64(len(r.service.arrivals())); lost > 300 {
			t.Errorf("%d of %d datagrams were lost", lost, last)
		}
	})
}

func TestIdleFlowsExpire(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		limits := func(c *Config) {
			c.Flows.Unanswered, c.Flows.Answered = 20*time.Second, 60*time.Second
		}
		listen(t, home, serviceAt, true)
		mute := listen(t, home, "127.0.0.1:51000", false)
		far := w.agent(home, "home", func(c *Config) {
			limits(c)
			exposing(t, "echo", "udp://"+serviceAt)(c)
			exposing(t, "mute", "udp://127.0.0.1:51000")(c)
		})
		laptop := w.agent(road, "laptop", func(c *Config) {
			limits(c)
			dialing(t, "home", "echo", "udp://"+dialAt)(c)
			dialing(t, "home", "mute", "udp://127.0.0.1:51001")(c)
		})
		w.settle()
		client := listen(t, road, "127.0.0.1:0", false)
		client.send(dialAt, []byte("a"))
		client.send("127.0.0.1:51001", []byte("b"))
		flows := func(want int) bool {
			return laptop.peer("home").flows.Len() == want && far.peer("laptop").flows.Len() == want
		}
		time.Sleep(10 * time.Second)
		if !flows(2) || len(mute.arrivals()) != 1 {
			t.Errorf("after 10 s: %d and %d flows", laptop.peer("home").flows.Len(), far.peer("laptop").flows.Len())
		}
		time.Sleep(20 * time.Second)
		if !flows(1) {
			t.Errorf("after 30 s: %d and %d flows", laptop.peer("home").flows.Len(), far.peer("laptop").flows.Len())
		}
		time.Sleep(50 * time.Second)
		if !flows(0) {
			t.Errorf("after 80 s: %d and %d flows", laptop.peer("home").flows.Len(), far.peer("laptop").flows.Len())
		}
		// An idle session ends too, and comes again when wanted.
		time.Sleep(6 * time.Minute)
		if laptop.peer("home").association() != nil || far.peer("laptop").association() != nil {
			t.Error("an idle session is kept")
		}
		client.send(dialAt, []byte("c"))
		time.Sleep(time.Second)
		if got := client.arrivals(); len(got) != 2 {
			t.Errorf("%d answers", len(got))
		}
	})
}

func TestServicesComeAndGoWhileRunning(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		home, _, _ := w.home()
		road, _ := w.road(natlab.Home())
		service := listen(t, home, serviceAt, true)
		far := w.agent(home, "home", nil)
		laptop := w.agent(road, "laptop", nil)
		w.settle()
		if err := laptop.Dial("home", "echo", "udp://"+dialAt); err != nil {
			t.Fatal(err)
		}
		client := listen(t, road, "127.0.0.1:0", false)
		answered := func(want bool, what string) {
			t.Helper()
			before := len(client.arrivals())
			client.send(dialAt, []byte(what))
			time.Sleep(time.Second)
			if got := len(client.arrivals()) > before; got != want {
				t.Errorf("%s: answered %v, status %+v", what, got, laptop.Status().Dials)
			}
		}
		answered(false, "before it is exposed")
		if d := laptop.Status().Dials; len(d) != 1 || !strings.Contains(d[0].Error, "echo") {
			t.Errorf("status does not tell that the peer refused: %+v", d)
		}
		if err := far.Expose("echo", "udp://"+serviceAt); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		answered(true, "once it is exposed")
		if d := laptop.Status().Dials; d[0].Error != "" || d[0].Flows != 1 {
			t.Errorf("status: %+v", d)
		}
		if s := far.Status().Services; len(s) != 1 || s[0].Flows != 1 {
			t.Errorf("status of home: %+v", s)
		}
		if err := far.Unexpose("echo"); err != nil {
			t.Fatal(err)
		}
		answered(false, "after it was withdrawn")
		answered(false, "a second time")
		if d := laptop.Status().Dials; !strings.Contains(d[0].Error, "echo") {
			t.Errorf("status: %+v", d)
		}
		n := len(service.arrivals())
		other := listen(t, home, "127.0.0.1:51000", true)
		if err := far.Expose("echo", "udp://127.0.0.1:51000"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		answered(true, "exposed elsewhere")
		if len(service.arrivals()) != n || len(other.arrivals()) != 1 {
			t.Errorf("%d datagrams at the old address, %d at the new", len(service.arrivals())-n, len(other.arrivals()))
		}
		if err := laptop.Hangup("home", "echo", ""); err != nil {
			t.Fatal(err)
		}
		answered(false, "after hanging up")
		time.Sleep(time.Second)
		if n := far.peer("laptop").flows.Len(); n > 0 {
			t.Errorf("home has %d flows of a dial that was hung up", n)
		}
		if err := laptop.Hangup("home", "echo", ""); err == nil {
			t.Error("hung up twice")
		}
	})
}
