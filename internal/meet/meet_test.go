package meet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// side is one of the two operators.
type side struct {
	t      *testing.T
	host   *natlab.Host
	mu     sync.Mutex
	events []Event
	err    chan error
	stop   context.CancelFunc
}

func (s *side) tell(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// saw is the last event of a kind, and how many there were.
func (s *side) saw(what string) (last Event, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.events {
		if e.What == what {
			last, n = e, n+1
		}
	}
	return last, n
}

// await waits for an event of a kind.
func (s *side) await(what string, d time.Duration) Event {
	s.t.Helper()
	for began := time.Now(); time.Since(began) < d; time.Sleep(10 * time.Millisecond) {
		if e, n := s.saw(what); n > 0 {
			return e
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.t.Fatalf("no %s within %v: %+v", what, d, s.events)
	return Event{}
}

// start runs a side from port 40000.
func start(t *testing.T, host *natlab.Host, secret seal.Secret, peer string, at time.Duration, change ...func(*Config)) *side {
	t.Helper()
	s := &side{t: t, host: host, err: make(chan error, 1)}
	cfg := Config{Network: host, Local: ap("0.0.0.0:40000"), Peer: ap(peer), Secret: secret, Services: forward.NewServices(),
		When: Window{At: time.Now().Add(at), For: time.Minute}, Tell: s.tell}
	for _, f := range change {
		f(&cfg)
	}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.err <- Run(ctx, cfg)
	}()
	t.Cleanup(func() { s.stop(); <-over })
	return s
}

func exposing(t *testing.T, url string) func(*Config) {
	return func(c *Config) {
		if err := c.Services.Expose("echo", url); err != nil {
			t.Fatal(err)
		}
	}
}

func dialing(at string) func(*Config) {
	return func(c *Config) { c.Dials = append(c.Dials, Dial{"echo", ap(at)}) }
}

// echo answers what comes to a port of a host.
func echo(t *testing.T, host *natlab.Host, at string) {
	t.Helper()
	conn, err := host.ListenUDP(ap(at))
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		_ = path.Read(conn, func(b dgram.Burst) { _ = conn.Write(b) })
	}()
	t.Cleanup(func() { _ = conn.Close(); <-over })
}

// ask sends datagrams until one is answered, and says how many that took.
func ask(t *testing.T, host *natlab.Host, to string, d time.Duration) int {
	t.Helper()
	conn, err := host.ListenUDP(ap("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var arena dgram.Arena
	defer arena.Release()
	n := 0
	for began := time.Now(); time.Since(began) < d; {
		n++
		if err := conn.Write(dgram.One(ap(to), fmt.Appendf(nil, "question %d", n))); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if got, err := conn.Read(&arena); err == nil && len(got) > 0 && strings.HasPrefix(string(got[0].Buf), "question") {
			return n
		}
	}
	t.Fatalf("none of %d datagrams was answered in %v", n, d)
	return 0
}

// world is two hosts behind two NATs, 20 ms from the middle each.
type world struct {
	lab      *natlab.Lab
	nats     [2]*natlab.NAT
	one, two *natlab.Host
}

const (
	onesAddr = "198.51.100.1"
	twosAddr = "198.51.100.2"
	ones     = onesAddr + ":40000"
	twos     = twosAddr + ":40000"
)

func newWorld(t *testing.T, a, b natlab.Behaviour, options ...natlab.Option) *world {
	w := &world{lab: natlab.New(t, natlab.Options{Seed: 3})}
	options = append(options, natlab.Delay(20*time.Millisecond))
	w.nats[0] = w.lab.NAT("nat-one", onesAddr, a, options...)
	w.nats[1] = w.lab.NAT("nat-two", twosAddr, b, options...)
	w.one, w.two = w.nats[0].Host("one", "192.168.1.2"), w.nats[1].Host("two", "192.168.2.2")
	return w
}

// Two operators with clocks that differ meet, whoever of them exposes; nothing
// leaves before either's time.
//
// S4-17
func TestTwoMeetWithoutACoordinator(t *testing.T) {
	for _, skew := range []time.Duration{0, 2 * time.Second, 7 * time.Second, -5 * time.Second, 40 * time.Second} {
		for _, nats := range []struct {
			name string
			a, b natlab.Behaviour
		}{
			{"home, home", natlab.Home(), natlab.Home()},
			{"home, random ports that depend", natlab.Behaviour{}, natlab.Cellular()},
		} {
			t.Run(fmt.Sprintf("%s, %v", nats.name, skew), func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					w := newWorld(t, nats.a, nats.b)
					secret := seal.NewSecret()
					echo(t, w.one, "127.0.0.1:7")
					const at = 30 * time.Second
					a := start(t, w.one, secret, twos, at, exposing(t, "udp://127.0.0.1:7"))
					b := start(t, w.two, secret, ones, at+skew, dialing("127.0.0.1:7007"))
					time.Sleep(at + min(skew, 0) - time.Millisecond)
					for to, n := range w.lab.Targets() {
						t.Errorf("%d datagrams to %v before the time", n, to)
					}
					e := a.await(Open, 50*time.Second)
					b.await(Open, time.Second)
					if e.Addr == "" || time.Since(e.Time) > time.Second {
						t.Errorf("%+v", e)
					}
					if took := time.Since(e.Time.Add(-primeFor - 2*time.Second)); took < 0 {
						t.Errorf("%v", took)
					}
					if n := ask(t, w.two, "127.0.0.1:7007", 5*time.Second); n > 2 {
						t.Errorf("the %d. datagram was answered first", n)
					}
				})
			})
		}
	}
}

// How soon, from when both have begun.
func TestMeetingIsQuick(t *testing.T) {
	for skew, most := range map[time.Duration]time.Duration{0: primeFor + time.Second, 3 * time.Second: 1500 * time.Millisecond, 5 * time.Second: 1500 * time.Millisecond} {
		bubble.Test(t, func(t *testing.T) {
			w := newWorld(t, natlab.Home(), natlab.Home())
			secret, began := seal.NewSecret(), time.Now()
			a := start(t, w.one, secret, twos, 0)
			b := start(t, w.two, secret, ones, skew)
			a.await(Open, 30*time.Second)
			b.await(Open, 30*time.Second)
			if took := time.Since(began.Add(skew)); took > most {
				t.Errorf("clocks apart by %v: %v after the later one", skew, took)
			}
		})
	}
}

// Loss, routers that take early datagrams as their own, the same LAN.
func TestMeetingUnderTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		b       natlab.Behaviour
		options []natlab.Option
	}{
		"loss":                {natlab.Home(), []natlab.Option{natlab.Loss(0.3)}},
		"routers that accept": {natlab.Poisonable(), nil},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				w := newWorld(t, c.b, c.b, c.options...)
				secret := seal.NewSecret()
				a := start(t, w.one, secret, twos, 0)
				b := start(t, w.two, secret, ones, 2*time.Second)
				a.await(Open, 30*time.Second)
				b.await(Open, 30*time.Second)
			})
		})
	}
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Home(), natlab.Home())
		other := w.nats[0].Host("other", "192.168.1.3")
		secret := seal.NewSecret()
		start(t, other, secret, "192.168.1.2:40000", 0)
		start(t, w.one, secret, "192.168.1.3:40000", 0).await(Open, 10*time.Second)
	})
}

// Over IPv6 the firewalls of both sides are opened the same way.
func TestMeetingOverIPv6(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		lab := natlab.New(t, natlab.Options{Seed: 5})
		host := func(name, outside, prefix, inside, addr string) *natlab.Host {
			nat := lab.NAT("nat-"+name, outside, natlab.Home(), natlab.Prefix(prefix), natlab.Delay(20*time.Millisecond))
			return nat.Host(name, inside, natlab.Also(addr))
		}
		one := host("one", onesAddr, "2001:db8:1::/64", "192.168.1.2", "2001:db8:1::2")
		two := host("two", twosAddr, "2001:db8:2::/64", "192.168.2.2", "2001:db8:2::2")
		secret, six := seal.NewSecret(), func(c *Config) { c.Local = ap("[::]:40000") }
		a := start(t, one, secret, "[2001:db8:2::2]:40000", 0, six)
		b := start(t, two, secret, "[2001:db8:1::2]:40000", 2*time.Second, six)
		a.await(Open, 10*time.Second)
		b.await(Open, time.Second)
	})
}

// failure waits for a side's end, which must be a failure with advice.
func (s *side) failure() *path.Failure {
	s.t.Helper()
	var f *path.Failure
	if err := <-s.err; !errors.As(err, &f) || f.Advice == "" {
		s.t.Fatalf("ended with %v", err)
	}
	return f
}

// ended waits for a side's end, which must be a good one.
func (s *side) ended() {
	s.t.Helper()
	if err := <-s.err; err != nil {
		s.t.Errorf("ended with %v", err)
	}
}

func TestNobodyThere(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Home(), natlab.Home())
		began := time.Now()
		f := start(t, w.one, seal.NewSecret(), twos, time.Second).failure()
		if f.Reason != "no-answer" || !strings.Contains(f.Evidence, twos) {
			t.Errorf("%+v", f)
		}
		if took := time.Since(began); took != 61*time.Second {
			t.Errorf("ended after %v", took)
		}
		if n := w.lab.SentTo(netip.MustParseAddr(twosAddr)); n < 50 || n > 120 {
			t.Errorf("%d datagrams in a minute", n)
		}
	})
}

func TestWrongSecret(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Home(), natlab.Home())
		a := start(t, w.one, seal.NewSecret(), twos, 0)
		b := start(t, w.two, seal.NewSecret(), ones, 0)
		if f := a.failure(); f.Reason != "wrong-secret" || !strings.Contains(f.Evidence, twosAddr) {
			t.Errorf("%+v", f)
		}
		if f := b.failure(); f.Reason != "wrong-secret" {
			t.Errorf("%+v", f)
		}
	})
}

func TestHeardButNotAnswered(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Home(), natlab.Home())
		w.nats[1].Block(func(from, _ netip.AddrPort, _ []byte) bool { return from.Addr() == netip.MustParseAddr(onesAddr) })
		secret := seal.NewSecret()
		a := start(t, w.one, secret, twos, 0)
		b := start(t, w.two, secret, ones, 0)
		if f := a.failure(); f.Reason != "one-way" {
			t.Errorf("%+v", f)
		}
		if f := b.failure(); f.Reason != "no-answer" {
			t.Errorf("%+v", f)
		}
	})
}

// A path that breaks is found again, by a new meeting where that is needed, and
// the services go on with it.
func TestLostPathIsMetAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Home(), natlab.Home())
		secret := seal.NewSecret()
		echo(t, w.one, "127.0.0.1:7")
		a := start(t, w.one, secret, twos, 0, exposing(t, "udp://127.0.0.1:7"))
		b := start(t, w.two, secret, ones, 0, dialing("127.0.0.1:7007"))
		a.await(Open, 20*time.Second)
		b.await(Open, 20*time.Second)
		ask(t, w.two, "127.0.0.1:7007", 5*time.Second)
		w.nats[0].Unplug()
		time.Sleep(90 * time.Second)
		w.nats[0].Plug()
		w.nats[0].Flush()
		w.nats[1].Flush()
		ask(t, w.two, "127.0.0.1:7007", 20*time.Second)
		if _, n := b.saw(Lost); n == 0 {
			t.Error("the loss was not told")
		}
	})
}

// A side that was started again is met again, though the other's session seems
// to work.
func TestRestartedPeerIsMetAgain(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWorld(t, natlab.Home(), natlab.Home())
		secret := seal.NewSecret()
		echo(t, w.one, "127.0.0.1:7")
		for _, first := range []bool{true, false} { // who begins with which half of the numbers is chance
			a := start(t, w.one, secret, twos, 0, exposing(t, "udp://127.0.0.1:7"))
			b := start(t, w.two, secret, ones, 0, dialing("127.0.0.1:7007"))
			a.await(Open, 20*time.Second)
			b.await(Open, 20*time.Second)
			dead := a
			if first {
				dead = b
			}
			dead.host.DropWhen(func(netip.AddrPort, netip.AddrPort, []byte) bool { return true }) // no goodbye
			dead.stop()
			dead.ended()
			dead.host.DropWhen(nil)
			if first {
				b = start(t, w.two, secret, ones, 0, dialing("127.0.0.1:7007"))
			} else {
				a = start(t, w.one, secret, twos, 0, exposing(t, "udp://127.0.0.1:7"))
			}
			a.await(Open, 20*time.Second)
			b.await(Open, 20*time.Second)
			ask(t, w.two, "127.0.0.1:7007", 15*time.Second)
			a.stop()
			a.ended()
			b.await(Ended, time.Second)
			b.ended()
		}
	})
}
