package agent

import (
	"bytes"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// wire counts what a host sends to others, by payload size and by whether it
// goes to the coordinator's host.
type wire struct {
	mu     sync.Mutex
	direct map[int]int
	relay  map[int]int
	ports  map[uint16]int // of direct ones of the size that is watched
	watch  int
}

func watchWire(w *world, host string) *wire {
	v := &wire{direct: map[int]int{}, relay: map[int]int{}, ports: map[uint16]int{}}
	w.lab.Watch(func(r natlab.Record) {
		if r.Event != natlab.Sent || r.Place != host || r.To.Addr().IsLoopback() {
			return
		}
		v.mu.Lock()
		defer v.mu.Unlock()
		size := r.Bytes / r.Count
		if r.To.Addr().String() == vpsAddr {
			v.relay[size] += r.Count
			return
		}
		v.direct[size] += r.Count
		if size == v.watch {
			v.ports[r.From.Port()] += r.Count
		}
	})
	return v
}

func (v *wire) take(size int) (direct, relay int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	direct, relay = v.direct[size], v.relay[size]
	v.direct, v.relay = map[int]int{}, map[int]int{}
	return direct, relay
}

// newRawTrip is a trip to a service that protects its own payload.
func newRawTrip(t *testing.T, paths ...path.Kind) *trip {
	t.Helper()
	r := &trip{world: newWorld(t)}
	r.homeHost, r.router, r.carrier = r.world.home()
	r.roadHost, r.cafe = r.road(natlab.Home())
	r.service = listen(t, r.homeHost, serviceAt, true)
	r.client = listen(t, r.roadHost, "127.0.0.1:0", false)
	r.home = r.agent(r.homeHost, "home", exposing(t, "wg", "udp://"+serviceAt+"?raw"))
	r.laptop = r.agent(r.roadHost, "laptop", func(c *Config) {
		dialing(t, "home", "wg", "udp://"+dialAt)(c)
		c.Paths = paths
	})
	r.settle()
	return r
}

// rawKind is the path of the client's raw flow, seen from one side.
func rawKind(a *running, peer string) path.Kind {
	p := a.peer(peer)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, st := range p.raws {
		if st.child != nil {
			return st.child.Best()
		}
	}
	return path.None
}

func TestRawServiceAddsNoByte(t *testing.T) {
	t.Parallel()
	const size, sealed = 1437, 1437 + proto.Overhead
	for _, kind := range []path.Kind{path.DirectUDP, path.RelayUDP} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				var r *trip
				if kind == path.RelayUDP {
					r = newRawTrip(t, kind)
				} else {
					r = newRawTrip(t)
				}
				out, back := watchWire(r.world, "laptop"), watchWire(r.world, "home")
				r.client.send(dialAt, stamped(0, size))
				waitFor(t, "a 5-tuple of its own on both sides", 10*time.Second, func() bool {
					return rawKind(r.laptop, "home") == kind && rawKind(r.home, "laptop") == kind
				})
				time.Sleep(3 * time.Second) // the sizes of the path are known
				out.take(size)
				back.take(size)
				const n = 50
				for i := range uint64(n) {
					r.client.send(dialAt, stamped(1+i, size))
					time.Sleep(5 * time.Millisecond)
				}
				time.Sleep(time.Second)
				got := r.client.arrivals()
				if len(got) != n+1 {
					t.Fatalf("%d of %d came back", len(got), n+1)
				}
				for i, a := range got {
					if !bytes.Equal(a.data, stamped(uint64(i), size)) {
						t.Fatalf("datagram %d came back as another", i)
					}
				}
				for name, v := range map[string]*wire{"out": out, "back": back} {
					v.mu.Lock()
					longer := v.direct[sealed] + v.relay[sealed]
					v.mu.Unlock()
					direct, relay := v.take(size)
					if kind == path.DirectUDP && direct != n || kind == path.RelayUDP && relay != n || longer > 0 {
						t.Errorf("%s: %d of %d bytes straight, %d by the relay, %d sealed; want %d on %v", name, direct, size, relay, longer, n, kind)
					}
				}
				if n := len(r.service.sources()); n != 1 {
					t.Errorf("the service saw %d sources", n)
				}
			})
		})
	}
}

func TestRawPayloadIsNeverEaten(t *testing.T) {
	t.Parallel()
	for _, kind := range []path.Kind{path.DirectUDP, path.RelayUDP} {
		t.Run(kind.String(), func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				var r *trip
				if kind == path.RelayUDP {
					r = newRawTrip(t, kind)
				} else {
					r = newRawTrip(t)
				}
				r.client.send(dialAt, []byte("open"))
				waitFor(t, "a 5-tuple of its own", 10*time.Second, func() bool {
					return rawKind(r.laptop, "home") == kind && rawKind(r.home, "laptop") == kind
				})
				time.Sleep(3 * time.Second)
				child := func(a *running, peer string) *association {
					p := a.peer(peer)
					p.mu.Lock()
					defer p.mu.Unlock()
					for _, st := range p.raws {
						return st.child
					}
					return nil
				}
				token := child(r.home, "laptop").Token()
				payloads := map[string][]byte{
					"empty":                     {},
					"one byte":                  {0x81},
					"a probe to nobody":         append([]byte{0x81}, make([]byte, 100)...),
					"a probe with its token":    proto.AppendProbeHeader(nil, proto.ProbeHeader{Token: token, Counter: 7}),
					"the same, full":            append(proto.AppendProbeHeader(nil, proto.ProbeHeader{Token: token, Counter: 7}), make([]byte, 200)...),
					"an answer with its token":  append(proto.AppendProbeHeader(nil, proto.ProbeHeader{Answer: true, Token: token, Counter: 9}), make([]byte, 200)...),
					"a bind":                    proto.AppendBind(nil, proto.Bind{Allocation: token, Counter: 1}),
					"a bound":                   proto.AppendBind(nil, proto.Bind{Bound: true, Allocation: token, Counter: 1, Both: true}),
					"a prime":                   proto.Prime(),
					"sealed data":               append([]byte{0xa0, 0, 0, 1}, make([]byte, 60)...),
					"QUIC":                      append([]byte{0xc3, 0, 0, 0, 1}, make([]byte, 60)...),
					"a STUN request":            append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...),
					"a STUN answer":             append([]byte{1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...),
					"WireGuard's first message": append([]byte{1, 0, 0, 0}, make([]byte, 144)...),
				}
				for name, d := range payloads {
					before := len(r.client.arrivals())
					there := len(r.service.arrivals())
					r.client.send(dialAt, d)
					time.Sleep(200 * time.Millisecond)
					at, got := r.service.arrivals(), r.client.arrivals()
					if len(at) != there+1 || !bytes.Equal(at[there].data, d) {
						t.Errorf("%s: %d came to the service", name, len(at)-there)
						continue
					}
					if len(got) != before+1 || !bytes.Equal(got[before].data, d) {
						t.Errorf("%s: %d came back", name, len(got)-before)
					}
				}
				if rawKind(r.laptop, "home") != kind {
					t.Errorf("the 5-tuple did not outlive it: %v", rawKind(r.laptop, "home"))
				}
			})
		})
	}
}

func TestRawFlowFallsBackToSealedAndComesAgain(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		const size = 1000
		r := newRawTrip(t)
		out := watchWire(r.world, "laptop")
		out.mu.Lock()
		out.watch = size
		out.mu.Unlock()
		r.client.send(dialAt, stamped(0, size))
		direct := func() bool {
			return rawKind(r.laptop, "home") == path.DirectUDP && rawKind(r.home, "laptop") == path.DirectUDP
		}
		waitFor(t, "a 5-tuple of its own", 10*time.Second, direct)
		time.Sleep(3 * time.Second)
		done := make(chan struct{})
		var wait sync.WaitGroup
		wait.Go(func() {
			for i := uint64(1); ; i++ {
				select {
				case <-done:
					return
				case <-time.After(20 * time.Millisecond):
					r.client.send(dialAt, stamped(i, size))
				}
			}
		})
		defer wait.Wait()
		defer close(done)
		time.Sleep(time.Second)
		out.mu.Lock()
		if len(out.ports) != 1 {
			t.Errorf("raw datagrams leave from ports %v", out.ports)
		}
		var port uint16
		for port = range out.ports {
		}
		out.mu.Unlock()
		// Its 5-tuples die, straight and by the relay; the session lives.
		var mu sync.Mutex
		dead := map[uint16]bool{}
		p := r.laptop.peer("home")
		p.mu.Lock()
		for _, st := range p.raws {
			for _, report := range st.child.Paths() {
				dead[report.Path.Conn.LocalAddr().Port()] = true
			}
		}
		p.mu.Unlock()
		if !dead[port] {
			t.Fatalf("port %d is not of a path of the raw flow: %v", port, dead)
		}
		r.roadHost.DropWhen(func(from, to netip.AddrPort, _ []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			return dead[from.Port()] && strings.HasPrefix(from.String(), "192.168.2.2") || dead[to.Port()] && strings.HasPrefix(to.String(), "192.168.2.2")
		})
		since := time.Now()
		time.Sleep(20 * time.Second)
		there, back := gap(r.service, since, time.Now()), gap(r.client, since, time.Now())
		t.Logf("no datagram for %v at the service, %v at the client", there, back)
		if there > 2*time.Second || back > 2*time.Second {
			t.Errorf("no datagram for %v at the service, %v at the client", there, back)
		}
		waitFor(t, "another 5-tuple of its own", 30*time.Second, direct)
		if n := len(r.service.sources()); n != 1 {
			t.Errorf("the service saw %d sources", n)
		}
		out.mu.Lock()
		defer out.mu.Unlock()
		if len(out.ports) < 2 {
			t.Errorf("raw datagrams left from ports %v", out.ports)
		}
	})
}

func TestRawFlowsOutliveTheSessionAndEndWithTheirClient(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newRawTrip(t)
		r.client.send(dialAt, stamped(0, 100))
		direct := func() bool {
			return rawKind(r.laptop, "home") == path.DirectUDP && rawKind(r.home, "laptop") == path.DirectUDP
		}
		waitFor(t, "a 5-tuple of its own", 10*time.Second, direct)
		s := startStream(r.client, dialAt, 20*time.Millisecond)
		time.Sleep(2 * time.Second)
		since := time.Now()
		r.laptop.peer("home").ended(r.laptop.peer("home").association(), "the test says so")
		time.Sleep(10 * time.Second)
		if g := gap(r.client, since, time.Now()); g > 500*time.Millisecond {
			t.Errorf("no answer for %v while the session was replaced", g)
		}
		waitFor(t, "its own 5-tuple", 30*time.Second, direct)
		s.end()
		// Nobody uses it any more: the flow expires and its sockets close.
		time.Sleep(4 * time.Minute)
		for name, p := range map[string]*peer{"laptop": r.laptop.peer("home"), "home": r.home.peer("laptop")} {
			p.mu.Lock()
			if n := len(p.raws); n > 0 {
				t.Errorf("%s keeps %d raw flows", name, n)
			}
			p.mu.Unlock()
		}
	})
}

// An offer that comes to nothing once left a session and its sockets behind,
// probing for good.
func TestRawChildThatItsFlowDoesNotUseIsClosed(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newRawTrip(t)
		r.client.send(dialAt, stamped(1, 100))
		time.Sleep(5 * time.Second)
		if k := rawKind(r.home, "laptop"); k != path.DirectUDP {
			t.Fatalf("the raw flow takes %q", k)
		}
		p := r.home.peer("laptop")
		sessions := func() int {
			r.home.board.mu.RLock()
			defer r.home.board.mu.RUnlock()
			return len(r.home.board.byToken)
		}
		before := sessions()
		p.mu.Lock()
		var key rawKey
		for k := range p.raws {
			key = k
		}
		p.mu.Unlock()
		child, err := p.offeredRaw(&proto.RawFlow{Flow: uint32(key.flow), Instance: key.instance, Seed: bytes.Repeat([]byte{3}, 32)})
		if err != nil {
			t.Fatal(err)
		}
		if sessions() != before+1 {
			t.Fatalf("%d sessions, want one more than %d", sessions(), before)
		}
		p.settleRaw(child)
		if sessions() != before || !child.ended() {
			t.Errorf("%d sessions are left, want %d; ended %v", sessions(), before, child.ended())
		}
		if k := rawKind(r.home, "laptop"); k != path.DirectUDP {
			t.Errorf("the flow's own child went too: %q", k)
		}
	})
}
