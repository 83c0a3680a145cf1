package agent

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/proto"
)

// publicTrip is a home whose service has a public port at the coordinator.
type publicTrip struct {
	*world
	said     *said
	homeHost *natlab.Host
	home     *running
	service  *station
}

// newPublicTrip puts home behind its router and a carrier's NAT.
func newPublicTrip(t *testing.T, url string, configure ...func(*Config)) *publicTrip {
	t.Helper()
	return newPublicTripAt(t, url, func(w *world) *natlab.Host { h, _, _ := w.home(); return h }, configure...)
}

func newPublicTripAt(t *testing.T, url string, place func(w *world) *natlab.Host, configure ...func(*Config)) *publicTrip {
	t.Helper()
	r := &publicTrip{world: newWorld(t), said: newSaid()}
	r.homeHost = place(r.world)
	r.service = listen(t, r.homeHost, serviceAt, true)
	r.home = r.agent(r.homeHost, "home", all(append([]func(*Config){r.said.use, exposing(t, "wg", url)}, configure...)...))
	r.settle()
	return r
}

// said is what an agent has told the coordinator of public ports.
type said struct {
	middle
	mu       sync.Mutex
	asks     []*proto.Publish
	released int
}

func newSaid() *said {
	s := &said{}
	s.asked = func(m *proto.ToCoordinator) *proto.ToAgent {
		s.mu.Lock()
		defer s.mu.Unlock()
		if ask := m.GetPublish(); ask != nil {
			s.asks = append(s.asks, ask)
		}
		s.released += len(m.GetRelease().GetIds())
		return nil
	}
	return s
}

// all is every question for ports, the first first, and how many legs were given
// back.
func (s *said) all() (asks []*proto.Publish, released int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.asks), s.released
}

// phone is a host without an agent, each at an address of its own.
func (r *publicTrip) phone(n int) *station {
	r.t.Helper()
	host := r.lab.Host(fmt.Sprintf("phone-%d", n), fmt.Sprintf("192.0.2.%d", n))
	return listen(r.t, host, "0.0.0.0:0", false)
}

func (r *publicTrip) public() *PublicStatus { return r.home.Status().Services[0].Public }

// publicAt is where clients find the service.
const (
	publicAt  = vpsAddr + ":51820"
	rawPublic = "udp://" + serviceAt + "?raw&public=51820"
)

func spares(n int) func(*Config) { return func(c *Config) { c.Public.Spares = n } }

// S3-05, S3-06: as many new clients at once as there are spares lose nothing, and
// the first datagram of each takes the way of the second, without a round trip
// more; new spares stand ready a moment later.
func TestNewClientsTakeNoRoundTripMore(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		const n = 50
		r := newPublicTrip(t, rawPublic, spares(n))
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
		if p := r.public(); p.Clients != 2*n || p.Spares != n {
			t.Errorf("status %+v", p)
		}
	})
}

// S3-09, S3-11: the keepalive is the one that was granted; a client's leg ends when
// that has been silent for a minute, however much the service sends; then its
// sockets are closed and just the spares are left.
func TestSilentClientsAreDropped(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, rawPublic, spares(2), func(c *Config) { c.Public.Idle, c.Public.Keepalive = 40*time.Second, 25*time.Second })
		asks, _ := r.said.all()
		if got := asks[0].GetPorts()[0]; got.GetKeepaliveS() != 25 || got.GetSpares() != 2 || !got.GetRaw() || got.GetService() != "wg" {
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
		if p := r.public(); p.Clients != 0 || p.Spares != 2 || p.Total != 1 {
			t.Errorf("42 s after the last datagram: %+v", p)
		}
		if _, released := r.said.all(); released != 1 {
			t.Errorf("%d legs were given back", released)
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

// A port that the coordinator refuses is shown with its reason and asked for
// again; one of a service that goes is given back, and another member may have it.
func TestPublicPortIsRefusedOpenedWithdrawn(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.agent(w.lab.Host("other", "198.51.100.200"), "other", exposing(t, "game", "udp://127.0.0.1:7777?public=51820"))
		w.settle()
		home, _, _ := w.home()
		service := listen(t, home, serviceAt, true)
		said := newSaid()
		far := w.agent(home, "home", said.use)
		w.settle()
		if asks, _ := said.all(); len(asks) != 0 {
			t.Errorf("asked for nothing with %v", asks)
		}
		if err := errors.Join(far.Expose("wg", rawPublic), far.Expose("x", "udp://127.0.0.1:1?public=22")); err != nil {
			t.Fatal(err)
		}
		if err := far.Expose("dns", "udp://127.0.0.1:53?public=51820"); err == nil {
			t.Error("two services share a public port")
		}
		time.Sleep(time.Second)
		status := func(n int) *PublicStatus { return far.Status().Services[n].Public }
		if p, x := status(0), status(1); p.State != PublicRefused || p.Reason == "" || x.State != PublicRefused || x.Reason == p.Reason {
			t.Errorf("status: %+v and %+v", p, x)
		}
		if err := other.Unexpose("game"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(askAgain)
		if p := status(0); p.State != PublicOpen || p.Spares != 4 {
			t.Errorf("status: %+v", p)
		}
		phone := listen(t, w.lab.Host("phone", "192.0.2.1"), "0.0.0.0:0", false)
		phone.send(publicAt, []byte("hello"))
		time.Sleep(time.Second)
		if len(phone.arrivals()) != 1 || len(service.sources()) != 1 {
			t.Error("no answer")
		}
		if err := errors.Join(far.Unexpose("wg"), far.Unexpose("x")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		far.public.mu.Lock()
		legs, ports := len(far.public.legs), len(far.public.ports)
		far.public.mu.Unlock()
		asks, released := said.all()
		if last := asks[len(asks)-1]; len(last.GetPorts()) != 0 || released < 5 || legs+ports != 0 {
			t.Errorf("asked for %v; %d legs given back, %d left, %d ports left", last, released, legs, ports)
		}
		if err := far.Expose("wg", "udp://127.0.0.1:9"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if got, _ := said.all(); len(got) != len(asks) {
			t.Errorf("a service without public port made %d questions", len(got)-len(asks))
		}
	})
}

// Where the coordinator says nonsense, no leg comes of it and nothing grows; more
// clients than there may be end the one that was silent longest.
func TestPublicLegsAreBounded(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, rawPublic, spares(2), func(c *Config) { c.Public.MaxClients = 3 })
		legs := func() int {
			r.home.public.mu.Lock()
			defer r.home.public.mu.Unlock()
			return len(r.home.public.legs)
		}
		say := func(service string, port uint32, allocations ...*proto.Allocation) {
			r.said.say(&proto.ToAgent{Body: &proto.ToAgent_PublicLegs{PublicLegs: &proto.PublicLegs{Service: service, Port: port, Allocations: allocations}}})
			time.Sleep(100 * time.Millisecond)
		}
		id, key := make([]byte, 8), make([]byte, 32)
		say("wg", 51820, &proto.Allocation{}, nil, &proto.Allocation{Id: id[:7], Key: key}, &proto.Allocation{Id: id, Key: key[:31]})
		say("wg", 51821, &proto.Allocation{Id: id, Key: key})
		say("dns", 51820, &proto.Allocation{Id: id, Key: key})
		r.said.say(&proto.ToAgent{Body: &proto.ToAgent_PublicClient{PublicClient: &proto.PublicClient{Id: id, Addr: []byte{1}}}})
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

// Strangers who come in crowds displace one another, not a client that the service
// has answered, however long that one was silent.
func TestCrowdSparesWhoIsServed(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, rawPublic, spares(2), func(c *Config) { c.Public.MaxClients = 3 })
		served := r.phone(1)
		served.send(publicAt, []byte("hello"))
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		r.service.echo = false
		for n := range 8 {
			r.phone(n+2).send(publicAt, []byte("hello"))
			time.Sleep(500 * time.Millisecond)
		}
		r.home.public.mu.Lock()
		var kept, others int
		for _, l := range r.home.public.legs {
			switch l.worth(time.Now()) {
			case 1:
				kept++
			case 0:
				others++
			}
		}
		r.home.public.mu.Unlock()
		if kept != 1 || others == 0 || others != r.public().Unanswered {
			t.Errorf("%d clients are left that were answered, and %d others; %+v", kept, others, r.public())
		}
	})
}

// A client stays served when home gets another address.
func TestPublicClientsSurviveAnotherAddressOfHome(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, rawPublic)
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
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, rawPublic, spares(1))
		s := startStream(r.phone(1), publicAt, 100*time.Millisecond)
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
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, rawPublic)
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
