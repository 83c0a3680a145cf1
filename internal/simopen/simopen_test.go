package simopen

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
)

const (
	homeAt   = "198.51.100.1:30001"
	laptopAt = "198.51.100.129:30002"
)

func (s *side) rung(m *member, fire time.Time, candidates ...string) *Rung {
	r := &Rung{
		Net: s, Local: []netip.AddrPort{netip.AddrPortFrom(netip.IPv4Unspecified(), s.at.Port())}, Listeners: []net.Listener{s},
		FireAt: fire, RTT: 2 * s.field.delay, Attach: m.attach, Release: m.release,
	}
	for _, c := range candidates {
		r.Candidates = append(r.Candidates, netip.MustParseAddrPort(c))
	}
	return r
}

// climbBoth runs two rungs and returns their errors and how long both took
// from the later instant to fire.
func climbBoth(t *testing.T, rungs [2]*Rung, members [2]*member) (errs [2]error, took time.Duration) {
	var both sync.WaitGroup
	var proven [2]time.Time
	for i := range rungs {
		both.Go(func() {
			errs[i] = rungs[i].Climb(t.Context(), func(ctx context.Context, p path.Path, k path.Kind) (time.Duration, error) {
				d, err := members[i].try(ctx, p, k)
				if err == nil && proven[i].IsZero() {
					proven[i] = time.Now()
				}
				return d, err
			})
		})
	}
	both.Wait()
	later := rungs[0].FireAt
	if rungs[1].FireAt.After(later) {
		later = rungs[1].FireAt
	}
	for _, p := range proven {
		took = max(took, p.Sub(later))
	}
	return errs, took
}

// S4-08, S4-10, S4-03, S0-26: SYNs meet through routers that drop or refuse
// them, whoever is late and however far the two are from each other.
func TestSYNsMeet(t *testing.T) {
	names := map[int]string{drops: "drop", resets: "RST", open: "open"}
	for _, routers := range [][2]int{{drops, drops}, {resets, resets}, {drops, resets}, {resets, drops}, {open, drops}, {resets, open}, {open, open}} {
		for _, delay := range []time.Duration{2 * time.Millisecond, 20 * time.Millisecond, 300 * time.Millisecond} {
			for _, skew := range []time.Duration{-300, -100, -20, -5, 0, 1, 20, 100, 300} {
				name := fmt.Sprintf("%s,%s/delay=%v/skew=%dms", names[routers[0]], names[routers[1]], delay, skew)
				t.Run(name, func(t *testing.T) {
					bubble.Test(t, func(t *testing.T) { testMeeting(t, routers, delay, skew*time.Millisecond) })
				})
			}
		}
	}
}

func testMeeting(t *testing.T, routers [2]int, delay, skew time.Duration) {
	f := newField(delay)
	home, laptop := f.side(homeAt, routers[0]), f.side(laptopAt, routers[1])
	members := [2]*member{newMember("s"), newMember("s")}
	fire := time.Now().Add(500 * time.Millisecond)
	rungs := [2]*Rung{home.rung(members[0], fire, laptopAt), laptop.rung(members[1], fire.Add(skew), homeAt)}
	errs, took := climbBoth(t, rungs, members)
	if err := errors.Join(errs[0], errs[1]); err != nil {
		t.Fatal(err)
	}
	// A round trip to connect, one to prove, and what a missed meeting costs.
	if most := 8*delay + 100*time.Millisecond; took > most {
		t.Errorf("took %v after the later start, want at most %v", took, most)
	}
	for i, m := range members {
		if len(m.proven()) == 0 {
			t.Errorf("side %d has no proven connection left", i)
		}
	}
	members[0].close()
	members[1].close()
}

// S4-10: a SYN that is lost where both routers drop costs the time of a fresh
// one, not the kernel's second.
func TestLostSYNIsRepeatedSoon(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := newField(20 * time.Millisecond)
		f.lose = func(n int) bool { return n <= 2 }
		home, laptop := f.side(homeAt, drops), f.side(laptopAt, drops)
		members := [2]*member{newMember("s"), newMember("s")}
		fire := time.Now()
		errs, took := climbBoth(t, [2]*Rung{home.rung(members[0], fire, laptopAt), laptop.rung(members[1], fire, homeAt)}, members)
		if err := errors.Join(errs[0], errs[1]); err != nil {
			t.Fatal(err)
		}
		if took > 500*time.Millisecond {
			t.Errorf("took %v", took)
		}
		members[0].close()
		members[1].close()
	})
}

// S4-13: who can be reached by anybody need not dial; the other's connection
// is taken before it even fires.
func TestReversal(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := newField(20 * time.Millisecond)
		public, home := f.side(homeAt, open), f.side(laptopAt, drops)
		members := [2]*member{newMember("s"), newMember("s")}
		now := time.Now()
		errs, _ := climbBoth(t, [2]*Rung{public.rung(members[0], now.Add(time.Hour), laptopAt), home.rung(members[1], now, homeAt)}, members)
		if err := errors.Join(errs[0], errs[1]); err != nil {
			t.Fatal(err)
		}
		if len(public.times) != 0 || len(home.times) != 1 {
			t.Errorf("%d and %d SYNs, want none and one", len(public.times), len(home.times))
		}
		members[0].close()
		members[1].close()
	})
}

// The reasons of failure, their time and their rate. S4-11, S0-26, S4-04.
func TestFailures(t *testing.T) {
	for _, c := range []struct {
		name   string
		router int
		deaf   bool
		leaves bool
		reason string
		delay  time.Duration
		most   int // SYNs
	}{
		{"refused", resets, false, true, "refused", 20 * time.Millisecond, 130},
		{"refused by a network nearby", resets, false, true, path.RefusalsFlood, 100 * time.Microsecond, path.RefusalsAtOnce + 150},
		{"nobody there", drops, false, false, "no-answer", 100 * time.Microsecond, 30},
		{"no SYN passes", drops, true, true, "syn-blocked", 100 * time.Microsecond, 30},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble.Test(t, func(t *testing.T) {
				f := newField(c.delay)
				home, far := f.side(homeAt, drops), f.side(laptopAt, c.router)
				far.deaf = c.deaf
				m := newMember("s")
				r := home.rung(m, time.Now(), laptopAt)
				r.Leaves = c.leaves
				if c.reason != path.RefusalsFlood {
					r.RTT = 0
				}
				begun := time.Now()
				err := r.Climb(t.Context(), m.try)
				var failure *path.Failure
				if !errors.As(err, &failure) || failure.Reason != c.reason || failure.Advice == "" || !strings.Contains(failure.Evidence, laptopAt) {
					t.Errorf("got %v", err)
				}
				if took := time.Since(begun); took < 5*time.Second || took > 7*time.Second {
					t.Errorf("took %v", took)
				}
				for i := range len(home.times) - 1 {
					if gap := home.times[i+1].Sub(home.times[i]); gap < spacing {
						t.Fatalf("two SYNs within %v", gap)
					}
				}
				if n := len(home.times); n > c.most {
					t.Errorf("%d SYNs", n)
				}
				if n := within(home.times, time.Second); c.reason == path.RefusalsFlood && n > 25 {
					t.Errorf("%d SYNs in the last second", n)
				}
			})
		})
	}
}

// within is how many connects the last d of all have.
func within(times []time.Time, d time.Duration) (n int) {
	for _, at := range times {
		if times[len(times)-1].Sub(at) < d {
			n++
		}
	}
	return n
}

// A peer that begins late is met by the few SYNs that still go to a network that
// has answered hundreds by RST.
func TestLatePeerBehindRSTsIsMet(t *testing.T) {
	for _, delay := range []time.Duration{500 * time.Microsecond, 2 * time.Millisecond} {
		for _, skew := range []time.Duration{time.Second, 2 * time.Second, 3 * time.Second} {
			t.Run(fmt.Sprint(delay, skew), func(t *testing.T) {
				bubble.Test(t, func(t *testing.T) {
					f := newField(delay)
					home, laptop := f.side(homeAt, resets), f.side(laptopAt, resets)
					members := [2]*member{newMember("s"), newMember("s")}
					fire := time.Now()
					errs, took := climbBoth(t, [2]*Rung{home.rung(members[0], fire, laptopAt), laptop.rung(members[1], fire.Add(skew), homeAt)}, members)
					if err := errors.Join(errs[0], errs[1]); err != nil || took > 500*time.Millisecond {
						t.Errorf("%v in %v", err, took)
					}
					members[0].close()
					members[1].close()
				})
			})
		}
	}
}

// S4-04: only permitted addresses are connected to, and only they may connect.
func TestOnlyPermittedAddresses(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := newField(time.Millisecond)
		home := f.side(homeAt, open)
		m := newMember("s")
		err := home.rung(m, time.Now(), "192.168.1.9:22", "127.0.0.1:22", "224.0.0.1:22").Climb(t.Context(), m.try)
		var failure *path.Failure
		if !errors.As(err, &failure) || failure.Reason != "no-candidates" || len(home.times) != 0 {
			t.Errorf("got %v after %d SYNs", err, len(home.times))
		}
	})
	bubble.Test(t, func(t *testing.T) {
		f := newField(time.Millisecond)
		home := f.side(homeAt, open)
		m := newMember("s")
		r := home.rung(m, time.Now(), laptopAt)
		var strangers []net.Conn
		for i := range 5 {
			strangers = append(strangers, home.stranger(fmt.Sprintf("203.0.113.%d:999", i+1), "\x00\x06ping s"))
		}
		for i := range 30 { // of the peer's address, but without the secret
			strangers = append(strangers, home.stranger(fmt.Sprintf("198.51.100.129:%d", i+1), "\x00\x06ping x"))
		}
		err := r.Climb(t.Context(), m.try)
		var failure *path.Failure
		if !errors.As(err, &failure) || failure.Reason != "no-answer" || !strings.Contains(failure.Evidence, "did not prove itself") {
			t.Errorf("got %v", err)
		}
		if m.attached == 0 || m.attached > mostUnproven || m.released != m.attached {
			t.Errorf("%d strangers were attached, %d released", m.attached, m.released)
		}
		for _, s := range strangers {
			_ = s.Close()
		}
	})
}

// A 4-tuple that an earlier connection still holds is waited for.
func TestBusyTupleIsWaitedFor(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := newField(10 * time.Millisecond)
		home, laptop := f.side(homeAt, drops), f.side(laptopAt, drops)
		home.busy = 20
		members := [2]*member{newMember("s"), newMember("s")}
		fire := time.Now()
		errs, took := climbBoth(t, [2]*Rung{home.rung(members[0], fire, laptopAt), laptop.rung(members[1], fire, homeAt)}, members)
		if err := errors.Join(errs[0], errs[1]); err != nil || took > 1200*time.Millisecond {
			t.Errorf("%v in %v", err, took)
		}
		members[0].close()
		members[1].close()
	})
}

// A climb that is not needed any more ends at once, and leaves nothing behind.
func TestClimbEndsWithItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		f := newField(10 * time.Millisecond)
		home := f.side(homeAt, drops)
		m := newMember("s")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if err := home.rung(m, begun, laptopAt).Climb(ctx, m.try); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if took := time.Since(begun); took != time.Second {
			t.Errorf("took %v", took)
		}
	})
}
