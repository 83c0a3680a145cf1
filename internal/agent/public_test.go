package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/forward"
	"rendezvous/internal/natlab"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// publicTrip is a home behind two NATs whose service has a public port, at a
// door that the test controls.
type publicTrip struct {
	*world
	door     *door
	homeHost *natlab.Host
	home     *running
	service  *station
}

func newPublicTrip(t *testing.T, spares int, url string, configure ...func(*Config)) *publicTrip {
	t.Helper()
	w := newWorld(t)
	r := &publicTrip{world: w, door: newDoor(w, spares)}
	r.homeHost, _, _ = w.home()
	r.service = listen(t, r.homeHost, serviceAt, true)
	r.home = w.agent(r.homeHost, "home", func(c *Config) {
		r.door.use(c)
		exposing(t, "wg", url)(c)
		c.Public.Spares = spares
		for _, f := range configure {
			f(c)
		}
	})
	w.settle()
	return r
}

// phone is a host without an agent, each at an address of its own.
func (r *publicTrip) phone(n int) *station {
	r.t.Helper()
	host := r.lab.Host(fmt.Sprintf("phone-%d", n), fmt.Sprintf("192.0.2.%d", n))
	return listen(r.t, host, "0.0.0.0:0", false)
}

func (r *publicTrip) public() *PublicStatus { return r.home.Status().Services[0].Public }

const rawPublic = "udp://" + serviceAt + "?raw&public=51820"

// S3-01, S3-02, S3-03, S3-04: clients without an agent reach a service behind NAT and
// CG-NAT, each with a socket of its own before it, and nothing of home is set up
// anywhere but on home.
func TestPublicClientsReachTheService(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, 4, rawPublic)
		if p := r.public(); p.State != PublicOpen || p.Spares != 4 || p.Clients != 0 || len(p.Addrs) != 1 || p.Addrs[0] != publicAt {
			t.Fatalf("status: %+v", p)
		}
		var phones []*station
		for n := range 3 {
			phones = append(phones, r.phone(n+1))
			phones[n].send(publicAt, []byte{byte(n)})
		}
		time.Sleep(time.Second)
		for n, p := range phones {
			if got := p.arrivals(); len(got) != 1 || got[0].data[0] != byte(n) || got[0].from.String() != publicAt {
				t.Errorf("phone %d got %v", n, got)
			}
		}
		if got := r.service.sources(); len(got) != 3 {
			t.Errorf("the service saw %v", got)
		}
		if p := r.public(); p.Clients != 3 || p.Total != 3 || p.Spares != 4 {
			t.Errorf("status: %+v", p)
		}
	})
}

// S3-05, S3-06: as many new clients at once as there are spares lose nothing, and
// the first datagram of each takes the way of the second, without a round trip
// more; new spares stand ready a moment later.
func TestNewClientsTakeNoRoundTripMore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const n = 50
		r := newPublicTrip(t, n, rawPublic)
		var phones []*station
		for i := range 2 * n {
			phones = append(phones, r.phone(i+1))
		}
		var took [3]time.Duration
		burst := func(round int, phones []*station) {
			t.Helper()
			began := time.Now()
			before := len(r.service.arrivals())
			for _, p := range phones {
				p.send(publicAt, []byte("hello"))
			}
			waitFor(t, "all datagrams at the service", time.Second, func() bool { return len(r.service.arrivals())-before == len(phones) })
			took[round] = time.Since(began)
			time.Sleep(200 * time.Millisecond)
		}
		burst(0, phones[:n])
		burst(1, phones[:n])
		burst(2, phones[n:])
		if took[0] != took[1] || took[2] != took[1] {
			t.Errorf("the first datagrams took %v, the second %v, those of the next clients %v", took[0], took[1], took[2])
		}
		if p := r.public(); p.Clients != 2*n || p.Spares != n || r.door.drops() > 0 {
			t.Errorf("status %+v, %d dropped", p, r.door.drops())
		}
	})
}

// S3-09, S3-11: the keepalive is the one that was granted; a client's leg ends when
// that has been silent for a minute, however much the service sends; then its
// sockets are closed and just the spares are left.
func TestSilentClientsAreDropped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, 2, rawPublic, func(c *Config) { c.Public.Idle, c.Public.Keepalive = 40*time.Second, 25*time.Second })
		if got := r.door.asksSoFar()[0].GetPorts()[0]; got.GetKeepaliveS() != 25 || got.GetSpares() != 2 || !got.GetRaw() || got.GetService() != "wg" {
			t.Errorf("asked for %v", got)
		}
		phone := r.phone(1)
		phone.send(publicAt, []byte("hello"))
		time.Sleep(time.Second)
		far := r.service.sources()[0]
		service := startStream(r.service, far.String(), 2*time.Second) // what it says keeps nothing
		defer service.end()
		time.Sleep(30 * time.Second)
		phone.send(publicAt, []byte("again"))
		time.Sleep(39 * time.Second)
		if p := r.public(); p.Clients != 1 {
			t.Errorf("39 s after the last datagram: %+v", p)
		}
		time.Sleep(3 * time.Second)
		clients, spares, released := r.door.served()
		if p := r.public(); p.Clients != 0 || p.Spares != 2 || p.Total != 1 || clients != 0 || spares != 2 || released != 1 {
			t.Errorf("42 s after the last datagram: %+v; the door has %d clients, %d spares, %d released", p, clients, spares, released)
		}
		if got := r.service.sources(); len(got) != 1 || got[0] != far {
			t.Errorf("the service saw %v", got)
		}
		phone.send(publicAt, []byte("back"))
		time.Sleep(time.Second)
		if got := r.service.sources(); len(got) != 2 {
			t.Errorf("a client that came back: the service saw %v", got)
		}
	})
}

// S1-14, S1-16, S3-22: with ?alias the service sees each client by an address of
// its own, whatever port the client's NAT gives it.
func TestPublicClientsHaveAliases(t *testing.T) {
	t.Parallel()
	for _, tells := range []time.Duration{0, 300 * time.Millisecond, -1} {
		synctest.Test(t, func(t *testing.T) {
			r := newPublicTrip(t, 4, "udp://"+serviceAt+"?raw&alias&public=51820")
			r.door.tells = tells
			host := r.lab.Host("phone", "192.0.2.1")
			first, moved := listen(t, host, "0.0.0.0:0", false), listen(t, host, "0.0.0.0:0", false)
			other := r.phone(2)
			for i, p := range []*station{first, moved, other} {
				p.send(publicAt, []byte{byte(i)})
			}
			time.Sleep(2 * time.Second)
			var from [3]netip.Addr
			for _, a := range r.service.arrivals() {
				from[a.data[0]] = a.from.Addr()
			}
			switch {
			case len(r.service.sources()) != 3:
				t.Fatalf("told after %v: the service saw %v", tells, r.service.sources())
			case !forward.AliasRange.Contains(from[0]) || from[0] != from[1]:
				t.Errorf("told after %v: two ports of one address come from %v", tells, from[:2])
			case tells >= 0 && from[2] == from[0]:
				t.Errorf("two addresses come from %v", from[0])
			}
			for i, p := range []*station{first, moved, other} {
				if got := p.arrivals(); len(got) != 1 {
					t.Errorf("told after %v: client %d got %d answers", tells, i, len(got))
				}
			}
		})
	}
}

// S3-17: a service's name is looked up for each new client, once for those that
// come together, and again for one that it leaves without answer.
func TestServiceThatMovesIsFoundAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var at atomic.Pointer[netip.Addr]
		var asked atomic.Int64
		old, next := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")
		at.Store(&old)
		r := newPublicTrip(t, 8, "udp://wg.lan:51820?raw&public=51820", func(c *Config) {
			c.Host.Resolve = func(ctx context.Context, host string) (netip.Addr, error) {
				asked.Add(1)
				path.Wait(ctx, 100*time.Millisecond)
				if p := at.Load(); p != nil {
					return *p, nil
				}
				return netip.Addr{}, errors.New("no such host")
			}
		})
		var phones []*station
		for n := range 5 {
			phones = append(phones, r.phone(n+1))
			phones[n].send(publicAt, []byte("1"))
			phones[n].send(publicAt, []byte("2"))
		}
		time.Sleep(time.Second)
		if got := len(r.service.arrivals()); got != 10 || asked.Load() != 1 {
			t.Errorf("%d of 10 datagrams arrived, after %d look-ups; those of the look-up wait", got, asked.Load())
		}
		_ = r.service.conn.Close()
		at.Store(&next)
		service := listen(t, r.homeHost, "127.0.0.2:51820", true)
		s := startStream(phones[0], publicAt, time.Second)
		time.Sleep(15 * time.Second)
		s.end()
		if got := len(service.arrivals()); got < 3 {
			t.Errorf("%d datagrams reached the service at its new address", got)
		}
		at.Store(nil)
		stranger := r.phone(100)
		stranger.send(publicAt, []byte("nobody there"))
		time.Sleep(time.Second)
		at.Store(&next)
		time.Sleep(2 * time.Second)
		stranger.send(publicAt, []byte("is back"))
		time.Sleep(time.Second)
		if got := stranger.arrivals(); len(got) != 1 || r.home.Status().Counters["public-no-service"] != 1 {
			t.Errorf("%d answers; counters %v", len(got), r.home.Status().Counters)
		}
	})
}

// A port that the coordinator refuses is shown with its reason and asked for
// again, one of a service that goes is given back.
func TestPublicPortIsRefusedOpenedWithdrawn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDoor(w, 3)
		d.refuse = "port 51820 is not among those that home may publish"
		home, _, _ := w.home()
		service := listen(t, home, serviceAt, true)
		far := w.agent(home, "home", d.use)
		w.settle()
		if asks := d.asksSoFar(); len(asks) != 0 {
			t.Errorf("asked for nothing with %v", asks)
		}
		if err := far.Expose("wg", rawPublic); err != nil {
			t.Fatal(err)
		}
		if err := far.Expose("dns", "udp://127.0.0.1:53?public=51820"); err == nil {
			t.Error("two services share a public port")
		}
		time.Sleep(time.Second)
		status := func() *PublicStatus { return far.Status().Services[0].Public }
		if p := status(); p.State != PublicRefused || p.Reason != d.refuse {
			t.Errorf("status: %+v", p)
		}
		d.mu.Lock()
		d.refuse = ""
		d.mu.Unlock()
		time.Sleep(askAgain)
		if p := status(); p.State != PublicOpen || p.Spares != 3 {
			t.Errorf("status: %+v", p)
		}
		phone := listen(t, w.lab.Host("phone", "192.0.2.1"), "0.0.0.0:0", false)
		phone.send(publicAt, []byte("hello"))
		time.Sleep(time.Second)
		if len(phone.arrivals()) != 1 {
			t.Error("no answer")
		}
		if err := far.Unexpose("wg"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		asks := d.asksSoFar()
		if last := asks[len(asks)-1]; len(last.GetPorts()) != 0 {
			t.Errorf("asked for %v", last)
		}
		far.public.mu.Lock()
		legs, ports := len(far.public.legs), len(far.public.ports)
		far.public.mu.Unlock()
		if _, _, released := d.served(); released != 4 || legs+ports != 0 {
			t.Errorf("%d legs given back, %d left, %d ports left", released, legs, ports)
		}
		if err := far.Expose("wg", "udp://127.0.0.1:9"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got := len(d.asksSoFar()); got != len(asks) || len(service.sources()) != 1 {
			t.Errorf("a service without public port made %d questions", got-len(asks))
		}
	})
}

// Where the coordinator says nonsense, no leg comes of it and nothing grows; more
// clients than there may be end the one that was silent longest.
func TestPublicLegsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, 2, rawPublic, func(c *Config) { c.Public.MaxClients = 3 })
		legs := func() int {
			r.home.public.mu.Lock()
			defer r.home.public.mu.Unlock()
			return len(r.home.public.legs)
		}
		say := func(service string, port uint32, allocations ...*proto.Allocation) {
			r.door.say(&proto.ToAgent{Body: &proto.ToAgent_PublicLegs{PublicLegs: &proto.PublicLegs{Service: service, Port: port, Allocations: allocations}}})
			time.Sleep(100 * time.Millisecond)
		}
		id, key := make([]byte, 8), make([]byte, 32)
		say("wg", 51820, &proto.Allocation{}, nil, &proto.Allocation{Id: id[:7], Key: key}, &proto.Allocation{Id: id, Key: key[:31]})
		say("wg", 51821, &proto.Allocation{Id: id, Key: key})
		say("dns", 51820, &proto.Allocation{Id: id, Key: key})
		r.door.say(&proto.ToAgent{Body: &proto.ToAgent_PublicClient{PublicClient: &proto.PublicClient{Id: id, Addr: []byte{1}}}})
		if legs() != 2 {
			t.Errorf("%d legs came of nonsense", legs()-2)
		}
		for n := range 6 {
			r.phone(n+1).send(publicAt, []byte("hello"))
			time.Sleep(500 * time.Millisecond)
		}
		if legs() > 5 || r.public().Total != 6 || r.home.Status().Counters["public-clients-evicted"] == 0 {
			t.Errorf("%d legs; %+v; %v", legs(), r.public(), r.home.Status().Counters)
		}
		if got := len(r.service.arrivals()); got != 6 {
			t.Errorf("%d of 6 datagrams arrived", got)
		}
		// Allocations that the relay does not know are given back, not at once.
		bad := make([]*proto.Allocation, 3000)
		for i := range bad {
			bad[i] = &proto.Allocation{Id: []byte{1, 2, 3, 4, 5, 6, byte(i >> 8), byte(i)}, Key: key}
		}
		say("wg", 51820, bad...)
		if legs() > 5 {
			t.Errorf("%d legs of 3000 allocations", legs())
		}
		time.Sleep(10 * time.Second)
		if legs() > 5 || r.public().Spares > 2 {
			t.Errorf("%d legs, %+v", legs(), r.public())
		}
	})
}

// A client stays served when home gets another address.
func TestPublicClientsSurviveAnotherAddressOfHome(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, 4, rawPublic)
		s := startStream(r.phone(1), publicAt, 20*time.Millisecond)
		defer s.end()
		time.Sleep(2 * time.Second)
		began := time.Now()
		r.homeHost.Readdress("192.168.1.77")
		time.Sleep(8 * time.Second)
		if g := gap(s.client, began, time.Now()); g > watchEvery+time.Second || len(r.service.sources()) != 1 {
			t.Errorf("a gap of %v; the service saw %v", g, r.service.sources())
		}
	})
}

// A steady flow such as RTP is never cut, for minutes. S3-21
func TestPublicSteadyFlow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, 1, rawPublic)
		s := startStream(r.phone(1), publicAt, 20*time.Millisecond)
		time.Sleep(5 * time.Minute)
		s.end()
		time.Sleep(time.Second)
		if got, want := uint64(len(s.client.arrivals())), s.sent.Load(); got != want || len(r.service.sources()) != 1 {
			t.Errorf("%d of %d came back; the service saw %v", got, want, r.service.sources())
		}
	})
}

// The service is open to agents and to clients without one at once; each door has
// sockets of its own before it, and a client that moves from one to the other is
// served.
func TestBothDoorsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, 4, rawPublic)
		road, _ := r.road(natlab.Home())
		r.agent(road, "laptop", dialing(t, "home", "wg", "udp://"+dialAt))
		r.settle()
		client := listen(t, road, "0.0.0.0:0", false)
		for round, to := range []string{publicAt, "127.0.0.1:51821", publicAt, "127.0.0.1:51821"} {
			client.send(to, stamped(uint64(round), 200))
			time.Sleep(2 * time.Second)
			if got := client.arrivals(); len(got) != round+1 || got[round].from.String() != to {
				t.Fatalf("round %d: %d answers", round, len(got))
			}
		}
		if got := r.service.sources(); len(got) != 2 {
			t.Errorf("the service saw %v", got)
		}
	})
}
