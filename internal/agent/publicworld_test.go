package agent

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/stun"
)

// Clients without an agent reach a service behind NAT and CG-NAT, each with a
// socket of its own before it, and nothing of home is set up anywhere but there;
// not a byte is added. S3-01, S3-02, S3-03, S3-04, S3-07, S3-22
func TestPublicPortOfTheCoordinator(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, rawPublic, spares(50))
		if p := r.public(); p.State != PublicOpen || p.Spares != 50 || len(p.Addrs) == 0 {
			t.Fatalf("status: %+v", p)
		}
		var phones []*station
		for n := range 50 {
			phones = append(phones, r.phone(n+1))
		}
		for n, p := range phones {
			p.send(publicAt, stamped(uint64(n), 1472))
		}
		first := waitFor(t, "50 datagrams", time.Second, func() bool { return len(r.service.arrivals()) == 50 })
		time.Sleep(time.Second)
		for n, p := range phones {
			if got := p.arrivals(); len(got) != 1 || !bytes.Equal(got[0].data, stamped(uint64(n), 1472)) || got[0].from.String() != publicAt {
				t.Errorf("phone %d got %d answers", n, len(got))
			}
		}
		if got := len(r.service.sources()); got != 50 {
			t.Errorf("the service saw %d clients", got)
		}
		began := time.Now()
		for n, p := range phones {
			p.send(publicAt, stamped(uint64(n), 1472))
		}
		waitFor(t, "50 datagrams more", time.Second, func() bool { return len(r.service.arrivals()) == 100 })
		if second := time.Since(began); first != second {
			t.Errorf("the first datagrams took %v, the second %v", first, second)
		}
		if p := r.public(); p.Clients != 50 || p.Spares != 50 {
			t.Errorf("status: %+v", p)
		}
		time.Sleep(2 * time.Minute)
		if p := r.public(); p.Clients != 0 || p.Spares != 50 {
			t.Errorf("after two minutes of silence: %+v", p)
		}
	})
}

// S3-15: what a service does not protect itself crosses sealed between the
// coordinator and home, in every size.
func TestPublicPortIsSealedUnlessRaw(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", "raw&"} {
		bubble.Test(t, func(t *testing.T) {
			r := newPublicTrip(t, "udp://"+serviceAt+"?"+raw+"public=51820")
			var shown, longest atomic.Int64
			r.homeHost.DropWhen(func(from, to netip.AddrPort, d []byte) bool {
				if bytes.Contains(d, marker[:60]) {
					shown.Add(1)
				}
				longest.Store(max(longest.Load(), int64(len(d))))
				return false
			})
			phone := r.phone(1)
			sizes := []int{0, 1, 53, 79, 240, 1200, 1372, 1381, 1400, 1453, 1472}
			for _, n := range sizes {
				phone.send(publicAt, bytes.Repeat(marker, 8)[:n])
				time.Sleep(50 * time.Millisecond)
			}
			time.Sleep(time.Second)
			got, back := r.service.arrivals(), phone.arrivals()
			if len(got) != len(sizes) || len(back) != len(sizes) {
				t.Fatalf("raw=%q: %d of %d arrived, %d came back", raw, len(got), len(sizes), len(back))
			}
			for i, n := range sizes {
				if want := bytes.Repeat(marker, 8)[:n]; !bytes.Equal(got[i].data, want) || !bytes.Equal(back[i].data, want) {
					t.Errorf("raw=%q: %d bytes arrived as %d and came back as %d", raw, n, len(got[i].data), len(back[i].data))
				}
			}
			r.home.public.mu.Lock()
			for _, l := range r.home.public.legs {
				if l.begun() && l.seal != nil { // what does not open, from the relay's own address
					l.receive(l.wire, dgram.One(l.wire.leg.Addr(), bytes.Repeat([]byte{0xa0}, 100)))
				}
			}
			r.home.public.mu.Unlock()
			if n := r.home.Status().Counters["public-unopened"]; (n == 1) != (raw == "") {
				t.Errorf("raw=%q: %d datagrams are counted that did not open", raw, n)
			}
			if (shown.Load() > 0) != (raw != "") {
				t.Errorf("raw=%q: %d datagrams showed payload", raw, shown.Load())
			}
			if raw != "" && longest.Load() != 1472 {
				t.Errorf("raw: the longest datagram on home's link had %d bytes, of 1472", longest.Load())
			}
		})
	}
}

// S3-08: payload that looks like a bind or its answer is payload, in both
// directions.
func TestPublicPortEatsNoPayload(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, rawPublic)
		phone := r.phone(1)
		var sent [][]byte
		for _, first := range []byte{0x81, 0x82, 0x83, 0x84, 0x85, 0x00, 0x40, 0xff} {
			for _, n := range []int{52, 53, 54, 79, 80} {
				d := append([]byte{first}, bytes.Repeat([]byte{0xa5}, n-1)...)
				sent = append(sent, d)
				phone.send(publicAt, d)
			}
		}
		time.Sleep(time.Second)
		got, back := r.service.arrivals(), phone.arrivals()
		if len(got) != len(sent) || len(back) != len(sent) {
			t.Fatalf("%d of %d arrived, %d came back", len(got), len(sent), len(back))
		}
		for i := range sent {
			if !bytes.Equal(got[i].data, sent[i]) || !bytes.Equal(back[i].data, sent[i]) {
				t.Errorf("datagram %d was changed", i)
			}
		}
	})
}

// An answer of the coordinator's STUN that a CG-NAT hands to a leg, whose port it
// has given to a socket that asks as well, takes no spare and does not reach the
// service; what another server's client says does.
func TestAstraySTUNTakesNoSpare(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, rawPublic)
		spare := func() (l *publicLeg) {
			r.home.public.mu.Lock()
			defer r.home.public.mu.Unlock()
			for _, l = range r.home.public.legs {
				if l.bound && !l.begun() {
					return l
				}
			}
			return nil
		}()
		answerOf := func(at netip.AddrPort) []byte {
			ask := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, make([]byte, 12)...)
			a, ok := stun.NewResponder(stun.Sockets{{at}}).Answer(time.Now(), stun.Socket{}, netip.MustParseAddrPort("198.51.100.1:20214"), ask)
			if !ok {
				t.Fatal("no answer")
			}
			return a.Message
		}
		before, relayAt := r.public(), spare.wire.leg.Addr()
		astray := answerOf(relayAt)
		for _, b := range []dgram.Burst{
			dgram.One(relayAt, slices.Clone(astray)),
			{Addr: relayAt, Buf: bytes.Repeat(astray, 3), Size: len(astray)},
		} {
			spare.receive(spare.wire, b)
		}
		if got := r.public(); got.Total != 0 || got.Clients != 0 || got.Spares != before.Spares {
			t.Errorf("before %+v, then %+v", before, got)
		}
		foreign := answerOf(netip.MustParseAddrPort("192.0.2.9:3478"))
		mixed := dgram.Burst{Addr: relayAt, Buf: slices.Concat(foreign, astray, foreign[:20]), Size: len(foreign)}
		spare.receive(spare.wire, mixed)
		time.Sleep(time.Second)
		if got := r.service.arrivals(); len(got) != 2 || !bytes.Equal(got[0].data, foreign) || !bytes.Equal(got[1].data, foreign[:20]) {
			t.Errorf("%d datagrams arrived", len(got))
		}
		if n := r.home.Status().Counters["public-astray"]; n != 5 {
			t.Errorf("%d datagrams are counted as astray", n)
		}
	})
}

// S3-19: a client with IPv6 alone reaches a home with IPv4 alone, and the other
// way round.
func TestPublicPortJoinsFamilies(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, rawPublic)
		six := listen(t, r.lab.Host("six", "2001:db8:b::1"), "[::]:0", false)
		four := r.phone(1)
		six.send("["+vpsSix+"]:51820", []byte("six"))
		four.send(publicAt, []byte("four"))
		time.Sleep(time.Second)
		if len(six.arrivals()) != 1 || len(four.arrivals()) != 1 || len(r.service.sources()) != 2 {
			t.Errorf("%d and %d answers; the service saw %v", len(six.arrivals()), len(four.arrivals()), r.service.sources())
		}
	})
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTripAt(t, "udp://[::1]:51820?raw&public=51820", func(w *world) *natlab.Host {
			w.at = "[" + vpsSix + "]:443"
			return w.lab.Host("home", "2001:db8:c::1")
		})
		service := listen(t, r.homeHost, "[::1]:51820", true)
		four := r.phone(1)
		four.send(publicAt, []byte("four"))
		time.Sleep(time.Second)
		if len(four.arrivals()) != 1 || len(service.sources()) != 1 {
			t.Errorf("%d answers; the service saw %v", len(four.arrivals()), service.sources())
		}
	})
}

// Where UDP does not pass between home and the coordinator, legs go over what
// looks like TCP, or over TLS.
func TestPublicPortWithoutUDP(t *testing.T) {
	for name, limit := range map[string]func(*Config){"faketcp": func(*Config) {}, "tls": unprivileged} {
		t.Run(name, func(t *testing.T) {
			virtual(t, func(t *testing.T) {
				var host *natlab.Host
				r := newPublicTripAt(t, rawPublic, func(w *world) *natlab.Host {
					host, _, _ = w.home(natlab.NoUDP(true))
					return host
				}, func(c *Config) { everything(host)(c); limit(c) })
				time.Sleep(5 * time.Second)
				s := startStream(r.phone(1), publicAt, 20*time.Millisecond)
				time.Sleep(10 * time.Second)
				s.end()
				time.Sleep(time.Second)
				if got, want := uint64(len(s.client.arrivals())), s.sent.Load(); got != want || len(r.service.sources()) != 1 {
					t.Errorf("%d of %d came back; the service saw %v; %+v", got, want, r.service.sources(), r.public())
				}
			})
		})
	}
}

// A killed coordinator and a restarted agent come back by themselves: the client
// only goes on sending.
func TestPublicPortComesBack(t *testing.T) {
	t.Parallel()
	for name, disturb := range map[string]func(r *publicTrip){
		"the coordinator is restarted": func(r *publicTrip) { r.stop(); time.Sleep(2 * time.Second); r.start() },
		"the agent is restarted": func(r *publicTrip) {
			r.home.stop()
			time.Sleep(2 * time.Second)
			r.home = r.run(r.homeHost, r.home.cfg.State, exposing(r.t, "wg", rawPublic))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble.Test(t, func(t *testing.T) {
				r := newPublicTrip(t, rawPublic)
				s := startStream(r.phone(1), publicAt, 20*time.Millisecond)
				defer s.end()
				time.Sleep(2 * time.Second)
				disturb(r)
				back := time.Now()
				waitFor(t, "answers again", 10*time.Second, func() bool {
					got := s.client.arrivals()
					return got[len(got)-1].at.After(back)
				})
				t.Logf("answers are back %v after", time.Since(back))
				time.Sleep(time.Minute)
				if g := gap(s.client, time.Now().Add(-50*time.Second), time.Now()); g > 200*time.Millisecond {
					t.Errorf("a gap of %v later", g)
				}
				if p := r.public(); p.State != PublicOpen || p.Clients != 1 || p.Spares != 4 {
					t.Errorf("status: %+v", p)
				}
			})
		})
	}
}

// The service is open to both kinds of clients at the same real coordinator, and
// 20 more come and go all the time.
func TestPublicPortBesideAgents(t *testing.T) {
	t.Parallel()
	bubble.Test(t, func(t *testing.T) {
		r := newPublicTrip(t, "udp://"+serviceAt+"?raw&alias&public=51820")
		road, _ := r.road(natlab.Home())
		r.agent(road, "laptop", dialing(t, "home", "wg", "udp://"+dialAt))
		r.settle()
		client := listen(t, road, "0.0.0.0:0", false)
		for round, to := range []string{publicAt, dialAt, publicAt, dialAt, dialAt, publicAt} {
			client.send(to, stamped(uint64(round), 200))
			for n := range 3 {
				r.phone(10*round+n+1).send(publicAt, []byte(fmt.Sprint("phone ", n)))
			}
			time.Sleep(2 * time.Second)
			if got := client.arrivals(); len(got) != round+1 || got[round].from.String() != to {
				t.Fatalf("round %d: %d answers", round, len(got))
			}
		}
		if got := r.service.sources(); len(got) != 20 {
			t.Errorf("the service saw %d clients: %v", len(got), got)
		}
	})
}
