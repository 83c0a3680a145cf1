package punch

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// socket notes primes; probes go through try.
type socket struct {
	local  netip.AddrPort
	mu     sync.Mutex
	primes map[netip.AddrPort]time.Time
	ttl    int
}

func newSocket(local string) *socket {
	return &socket{local: ap(local), primes: map[netip.AddrPort]time.Time{}}
}

func (*socket) Read(*dgram.Arena) ([]dgram.Burst, error) { select {} }
func (*socket) Write(dgram.Burst) error                  { return errors.New("a rung writes nothing itself") }
func (s *socket) LocalAddr() netip.AddrPort              { return s.local }
func (*socket) SetReadDeadline(time.Time) error          { return nil }
func (*socket) Close() error                             { return nil }

func (s *socket) WriteTTL(b dgram.Burst, ttl int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if proto.KindOf(b.Buf) != proto.KindPrime || b.Len() != 1 {
		return errors.New("not a prime")
	}
	if _, twice := s.primes[b.Addr]; twice {
		return errors.New("primed twice")
	}
	s.primes[b.Addr], s.ttl = time.Now(), ttl
	return nil
}

// tried is a record of probes, and who answers.
type tried struct {
	mu      sync.Mutex
	at      map[netip.AddrPort]time.Time
	answers map[netip.AddrPort]time.Duration
}

func (r *tried) try(ctx context.Context, p path.Path, k path.Kind) (time.Duration, error) {
	r.mu.Lock()
	r.at[p.Addr] = time.Now()
	rtt, ok := r.answers[p.Addr]
	r.mu.Unlock()
	if k != path.DirectUDP {
		return 0, errors.New("wrong kind")
	}
	if ok {
		time.Sleep(rtt)
		return rtt, nil
	}
	<-ctx.Done()
	return 0, ctx.Err()
}

func newTried() *tried {
	return &tried{at: map[netip.AddrPort]time.Time{}, answers: map[netip.AddrPort]time.Duration{}}
}

const (
	outside = "198.51.100.1:4000"
	second  = "198.51.100.1:4001"
	inside  = "192.168.1.2:4000"
	six     = "[2001:db8::1]:4000"
)

func TestPrimesAtOnceAndFiresAtTheInstant(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		four, sixth := newSocket("0.0.0.0:5000"), newSocket("[::]:5000")
		r := newTried()
		for _, a := range []string{outside, second, inside, six} {
			r.answers[ap(a)] = 30 * time.Millisecond
		}
		began := time.Now()
		rung := &Rung{Conns: []dgram.Conn{four, sixth}, Candidates: []netip.AddrPort{ap(outside), ap(second), ap(inside), ap(six)},
			SharedOutside: true, FireAt: began.Add(100 * time.Millisecond), RTT: 50 * time.Millisecond, Plan: DefaultPlan()}
		if err := rung.Climb(t.Context(), r.try); err != nil {
			t.Fatal(err)
		}
		if len(four.primes) != 2 || len(sixth.primes) != 1 || four.ttl != DefaultPlan().PrimeTTL {
			t.Errorf("primed %v and %v with TTL %d", four.primes, sixth.primes, four.ttl)
		}
		for a, at := range four.primes {
			if at != began {
				t.Errorf("%v was primed after %v", a, at.Sub(began))
			}
		}
		var gaps []time.Duration
		for _, at := range r.at {
			gaps = append(gaps, at.Sub(began))
		}
		slices.Sort(gaps)
		want := []time.Duration{100, 105, 110, 115}
		for i := range gaps {
			if gaps[i] != want[i]*time.Millisecond {
				t.Errorf("probes left after %v, want %v ms", gaps, want)
				break
			}
		}
	})
}

func TestGivesUpAfterThreeRoundTrips(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newTried()
		rung := &Rung{Conns: []dgram.Conn{newSocket("0.0.0.0:5000")}, Candidates: []netip.AddrPort{ap(outside)},
			FireAt: time.Now(), RTT: 400 * time.Millisecond, Plan: DefaultPlan()}
		began := time.Now()
		err := rung.Climb(t.Context(), r.try)
		var f *path.Failure
		if !errors.As(err, &f) || f.Reason != "no-answer" || !strings.Contains(f.Evidence, outside) || f.Advice == "" {
			t.Errorf("gave %#v", err)
		}
		if d := time.Since(began); d != 1200*time.Millisecond {
			t.Errorf("gave up after %v, want 3 round trips", d)
		}
		rung.Context = func() *path.Failure { return &path.Failure{Reason: "both-mappings-vary"} }
		rung.FireAt = time.Now()
		if err := rung.Climb(t.Context(), r.try); !errors.As(err, &f) || f.Reason != "both-mappings-vary" {
			t.Errorf("gave %v", err)
		}
	})
}

func TestNoCandidateIsNotTried(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r := newTried()
		rung := &Rung{Conns: []dgram.Conn{newSocket("0.0.0.0:5000")}, Candidates: []netip.AddrPort{ap(inside), ap("127.0.0.1:1")},
			FireAt: time.Now().Add(time.Hour), Plan: DefaultPlan()}
		var f *path.Failure
		if err := rung.Climb(t.Context(), r.try); !errors.As(err, &f) || f.Reason != "no-candidates" || !strings.Contains(f.Evidence, "loopback") {
			t.Errorf("gave %v", err)
		}
		if len(r.at) > 0 {
			t.Errorf("probed %v", r.at)
		}
	})
}

func TestLateCandidatesAreTaken(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		four, r := newSocket("0.0.0.0:5000"), newTried()
		r.answers[ap(second)] = 30 * time.Millisecond
		more := make(chan []netip.AddrPort, 1)
		rung := &Rung{Conns: []dgram.Conn{four}, Candidates: []netip.AddrPort{ap(outside)}, More: more,
			FireAt: time.Now(), RTT: 40 * time.Millisecond, Plan: DefaultPlan()}
		go func() {
			time.Sleep(60 * time.Millisecond)
			more <- []netip.AddrPort{ap(outside), ap(second), ap(inside)}
			close(more)
		}()
		if err := rung.Climb(t.Context(), r.try); err != nil {
			t.Error(err)
		}
		if _, primed := four.primes[ap(second)]; !primed || len(r.at) != 2 {
			t.Errorf("primed %v, probed %v", four.primes, r.at)
		}
	})
}

func TestEndsWhenThePathIsFoundElsewhere(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		r, found := newTried(), make(chan struct{})
		rung := &Rung{Conns: []dgram.Conn{newSocket("0.0.0.0:5000")}, Candidates: []netip.AddrPort{ap(outside)},
			Found: found, FireAt: time.Now(), RTT: time.Second, Plan: DefaultPlan()}
		time.AfterFunc(100*time.Millisecond, func() { close(found) })
		began := time.Now()
		if err := rung.Climb(t.Context(), r.try); err != nil {
			t.Error(err)
		}
		if d := time.Since(began); d > 150*time.Millisecond {
			t.Errorf("ended after %v", d)
		}
	})
}

func TestEndsWithItsContext(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		rung := &Rung{Conns: []dgram.Conn{newSocket("0.0.0.0:5000")}, Candidates: []netip.AddrPort{ap(outside)},
			FireAt: time.Now().Add(time.Hour), Plan: DefaultPlan()}
		if err := rung.Climb(ctx, newTried().try); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("gave %v", err)
		}
	})
}

// counted is a socket that can have routers count as well.
type counted struct {
	*socket
	routers map[netip.AddrPort]int
}

func (c *counted) WriteRouters(b dgram.Burst, routers int) error {
	c.routers[b.Addr] = routers
	return nil
}

// For a NAT that may be the next router behind ours the prime is one that this
// router drops; where that can't be had, of a TTL that ends there.
func TestPrimeForANeighbour(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		four, six, plain := &counted{newSocket("0.0.0.0:5000"), map[netip.AddrPort]int{}}, &counted{newSocket("[::]:5000"), nil}, newSocket("0.0.0.0:5001")
		to4, to6 := ap("198.51.100.1:4000"), ap("[2001:db8::1]:4000")
		r := &Rung{Conns: []dgram.Conn{four, six, plain}, Candidates: []netip.AddrPort{to4, to6}, Plan: DefaultPlan().Near(), FireAt: time.Now()}
		_ = r.Climb(t.Context(), newTried().try)
		if four.routers[to4] != 1 || len(four.primes) != 0 {
			t.Errorf("IPv4: %v, %v", four.routers, four.primes)
		}
		if len(six.primes) != 1 || six.ttl != 2 || len(plain.primes) != 1 || plain.ttl != 2 {
			t.Errorf("IPv6 with TTL %d, elsewhere with %d", six.ttl, plain.ttl)
		}
	})
}
