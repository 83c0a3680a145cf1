package rendezvous

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"rendezvous/internal/natlab"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

var anyV4 = netip.MustParseAddrPort("0.0.0.0:0")

// TestSynchronisation has one agent 20 ms and the other 120 ms of round trip
// from the coordinator, and compares the instants at which both would fire.
// S4-03
func TestSynchronisation(t *testing.T) {
	for _, fresh := range []bool{false, true} {
		bubble.Test(t, func(t *testing.T) { synchronise(t, fresh, natlab.Delay(60*time.Millisecond)) })
	}
	t.Log("with up to 2 ms of jitter:")
	bubble.Test(t, func(t *testing.T) {
		synchronise(t, false, natlab.Delay(60*time.Millisecond), natlab.Jitter(2*time.Millisecond))
	})
}

func synchronise(t *testing.T, fresh bool, far ...natlab.Option) {
	lab := natlab.New(t, natlab.Options{Seed: 1})
	vps := lab.Host("vps", "203.0.113.10/24")
	hosts := []*natlab.Host{
		lab.Host("near", "198.51.100.1/24", natlab.Delay(10*time.Millisecond)),
		lab.Host("far", "192.0.2.1/24", far...),
	}
	registry := testRegistry(t, t.TempDir())
	defer func() { _ = registry.Close() }()
	c := startCoordinator(t, registry, vps, netip.MustParseAddrPort("203.0.113.10:443"), func(c *Config) { c.Alternate = 3478 })
	defer c.stop()
	var guests [2]*guest
	for i, h := range hosts {
		guests[i] = newGuest(t, h.Name())
		if err := guests[i].connect(t.Context(), h, anyV4, c.Addrs()[0], c.pin); err != nil {
			t.Fatal(err)
		}
		guests[i].join(c.invite(t))
		defer func() { _ = guests[i].Close() }()
	}
	var skews []time.Duration
	for i := range 30 {
		asks, offered := guests[i%2], guests[1-i%2]
		skews = append(skews, skew(asks, offered, fresh))
		time.Sleep(time.Duration(i) * time.Second)
	}
	slices.Sort(skews)
	median, most := skews[len(skews)/2], skews[len(skews)-1]
	t.Logf("fresh %v: of 30 introductions the instants to fire differ by %v (median), %v (maximum)", fresh, median, most)
	if median > 5*time.Millisecond {
		t.Errorf("the median is over 5 ms: %v", skews)
	}
}

// skew introduces two agents and gives the time between their instants.
func skew(asks, offered *guest, fresh bool) time.Duration {
	fires := make(chan time.Time, 2)
	at := func(us uint32) { fires <- time.Now().Add(time.Duration(us) * time.Microsecond) }
	go func() {
		offer := offered.event().GetOffer()
		if offer.GetFire() {
			at(offer.GetFireAfterUs())
		}
		offered.must(reply(offer.GetIntroduction(), ""))
		if fresh {
			at(offered.event().GetGo().GetFireAfterUs())
		}
	}()
	in := asks.must(asks.introduce(offered, fresh, true)).GetIntroduced()
	if in.GetFire() {
		at(in.GetFireAfterUs())
	}
	if answer := asks.event().GetAnswer(); answer.GetFire() {
		at(answer.GetFireAfterUs())
	}
	return (<-fires).Sub(<-fires).Abs()
}

func TestUnansweredIntroductionEnds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, home, laptop := virtualPair(t)
		began := time.Now()
		in := laptop.must(laptop.introduce(home, false, false)).GetIntroduced()
		offer := home.event().GetOffer()
		a := laptop.event().GetAnswer()
		if took := time.Since(began); a.GetIntroduction() != in.GetIntroduction() || a.GetDeclined() == "" || took < answerWithin || took > answerWithin+2*time.Second {
			t.Errorf("answered %v after %v", a, took)
		}
		if _, err := home.ask(reply(offer.GetIntroduction(), "")); !errors.Is(err, &CodeError{Code: proto.Code_CODE_BAD_REQUEST}) {
			t.Errorf("a late answer gave %v", err)
		}
	})
}

// virtualPair is a coordinator with two agents in an internet in memory.
func virtualPair(t *testing.T) (c *coordinator, home, laptop *guest) {
	t.Helper()
	lab := natlab.New(t, natlab.Options{Seed: 1})
	vps := lab.Host("vps", "203.0.113.10/24")
	registry := testRegistry(t, t.TempDir())
	t.Cleanup(func() { _ = registry.Close() })
	c = startCoordinator(t, registry, vps, netip.MustParseAddrPort("203.0.113.10:443"), func(c *Config) { c.Alternate = 3478 })
	home, laptop = newGuest(t, "home"), newGuest(t, "laptop")
	for i, g := range []*guest{home, laptop} {
		h := lab.Host(g.name, []string{"198.51.100.1/24", "192.0.2.1/24"}[i], natlab.Delay(20*time.Millisecond))
		if err := g.connect(t.Context(), h, anyV4, c.Addrs()[0], c.pin); err != nil {
			t.Fatal(err)
		}
		g.join(c.invite(t))
	}
	return c, home, laptop
}

func TestIdleConnectionStays(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		_, home, laptop := virtualPair(t)
		time.Sleep(time.Hour)
		laptop.must(laptop.introduce(home, false, false))
		home.event()
	})
}

func TestGoodbye(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		c, home, _ := virtualPair(t)
		c.stop()
		if bye := home.event().GetGoodbye(); bye.GetBackInS() == 0 {
			t.Errorf("got %v", bye)
		}
		if m, ok := <-home.Events(); ok || !errors.Is(home.Err(), ErrStopping) {
			t.Errorf("then got %v, %v", m, home.Err())
		}
		if _, err := home.register(); !errors.Is(err, ErrStopping) {
			t.Errorf("a call gave %v", err)
		}
	})
}

// TestReplaced has two agents with one key replace each other.
func TestReplaced(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		lab := natlab.New(t, natlab.Options{Seed: 1})
		vps := lab.Host("vps", "203.0.113.10/24")
		host := lab.Host("host", "198.51.100.1/24")
		registry := testRegistry(t, t.TempDir())
		t.Cleanup(func() { _ = registry.Close() })
		var log bytes.Buffer
		c := startCoordinator(t, registry, vps, netip.MustParseAddrPort("203.0.113.10:443"), func(c *Config) {
			c.Alternate, c.Log = NoAlternate, zerolog.New(&log)
		})
		first := newGuest(t, "home")
		arrive := func(instance uint64) *guest {
			g := &guest{t: t, name: "home", id: first.id, instance: instance}
			if err := g.connect(t.Context(), host, anyV4, c.Addrs()[0], c.pin); err != nil {
				t.Fatal(err)
			}
			g.join(c.invite(t))
			return g
		}
		last := arrive(1)
		for i, instance := range []uint64{1, 2, 1, 2, 1} {
			next := arrive(instance)
			if m, ok := <-last.Events(); ok || !errors.Is(last.Err(), &CodeError{Code: proto.Code_CODE_REPLACED}) {
				t.Errorf("%d: the replaced agent got %v, %v", i, m, last.Err())
			}
			last = next
		}
		synctest.Wait()
		if n := strings.Count(log.String(), "two agents run with one key"); n != 1 {
			t.Errorf("the log says it %d times:\n%s", n, log.String())
		}
		if st, err := c.Status(); err != nil || len(st.Members) != 1 || !st.Members[0].Online {
			t.Errorf("status %+v, %v", st, err)
		}
	})
}

// TestCalledBack kills a coordinator, and has its successor call the agents.
func TestCalledBack(t *testing.T) {
	for _, wakes := range []bool{true, false} {
		bubble.Test(t, func(t *testing.T) {
			lab := natlab.New(t, natlab.Options{Seed: 1})
			vps := lab.Host("vps", "203.0.113.10/24")
			host := lab.Host("host", "198.51.100.1/24", natlab.Delay(20*time.Millisecond))
			registry := testRegistry(t, t.TempDir())
			t.Cleanup(func() { _ = registry.Close() })
			listen := netip.MustParseAddrPort("203.0.113.10:443")
			c := startCoordinator(t, registry, vps, listen, func(c *Config) { c.Alternate = NoAlternate })
			home := newGuest(t, "home")
			if err := home.connect(t.Context(), host, anyV4, listen, c.pin); err != nil {
				t.Fatal(err)
			}
			home.join(c.invite(t))
			time.Sleep(seenEvery + time.Second)
			where := keptWays(t, registry)
			if len(where) != 1 {
				t.Fatalf("kept %v", where)
			}
			// A kill: nothing is said, and nothing forgotten.
			vps.Unplug()
			c.stop()
			if forgotten := keptWays(t, registry); len(forgotten) != 0 {
				t.Errorf("after a good stop %v are kept", forgotten)
			}
			if wakes {
				if err := registry.keepSeen(time.Now(), where); err != nil {
					t.Fatal(err)
				}
			}
			vps.Plug()
			again := startCoordinator(t, registry, vps, listen, func(c *Config) { c.Alternate = NoAlternate })
			began := time.Now()
			_, ok := <-home.Events()
			took := time.Since(began)
			t.Logf("with wakes %v: noticed after %v", wakes, took)
			limit := keepAlive + time.Second
			if wakes {
				limit = time.Second
			}
			if ok || !errors.Is(home.Err(), ErrRestarted) || took > limit {
				t.Errorf("after %v: %v", took, home.Err())
			}
			again.stop()
		})
	}
}

func keptWays(t *testing.T, r *Registry) map[way]bool {
	t.Helper()
	ways, err := r.takeSeen(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	out := map[way]bool{}
	for _, w := range ways {
		out[w] = true
	}
	if err := r.keepSeen(time.Now(), out); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestTwoAddresses has a coordinator with two addresses answer every test of
// RFC 5780, from sockets that are bound to them.
func TestTwoAddresses(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		lab := natlab.New(t, natlab.Options{Seed: 1})
		vps := lab.Host("vps", "203.0.113.10/24", natlab.Also("203.0.113.11/24"))
		nat := lab.NAT("nat", "198.51.100.2/24", natlab.Behaviour{
			Mapping: natlab.AddressDependent, Filtering: natlab.AddressAndPortDependent, Ports: natlab.Random(1024, 65535),
		})
		inside := nat.Host("laptop", "192.168.1.2/24")
		registry := testRegistry(t, t.TempDir())
		t.Cleanup(func() { _ = registry.Close() })
		c := startCoordinator(t, registry, vps, netip.AddrPortFrom(netip.Addr{}, 443), func(c *Config) {
			c.Alternate, c.Public = DefaultAlternate, addrs("203.0.113.10 203.0.113.11")
		})
		if got := fmt.Sprint(c.Addrs()[:4]); got != "[203.0.113.10:443 203.0.113.10:3478 203.0.113.11:443 203.0.113.11:3478]" {
			t.Errorf("listening on %s", got)
		}
		report, err := stun.Discover(t.Context(), inside, c.Addrs()[:1])
		if err != nil {
			t.Fatal(err)
		}
		if report.Mapping != stun.AddressDependent || report.Filtering != stun.AddressAndPortDependent {
			t.Errorf("discovered %+v", report)
		}
		home := newGuest(t, "home")
		if err := home.connect(t.Context(), inside, anyV4, c.Addrs()[2], c.pin); err != nil {
			t.Fatal(err)
		}
		var got []netip.AddrPort
		for _, e := range home.join(c.invite(t)).GetStun() {
			a, _ := e.AddrPort()
			got = append(got, a)
		}
		if want := "[203.0.113.11:443 203.0.113.10:443 203.0.113.10:3478 203.0.113.11:3478]"; fmt.Sprint(got) != want {
			t.Errorf("STUN at %v, want %s", got, want)
		}
	})
}
