package faketcp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// Two hosts behind NATs of their own; each opens to the other's outside
// address.
type twoNATs struct {
	*wire
	nats             [2]*nat
	left, right      *host
	toLeft, toRight  netip.AddrPort
	line             *line
	beginning        time.Time
	leftTook, rightT time.Duration
}

// natted builds them, with d one way, and more boxes in the middle.
func natted(t *testing.T, answers bool, l *line, o Options, more ...box) *twoNATs {
	t.Helper()
	inL, inR := netip.MustParseAddrPort("10.0.0.2:5000"), netip.MustParseAddrPort("10.1.0.2:6000")
	outL, outR := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("203.0.113.1")
	s := &twoNATs{line: l, nats: [2]*nat{
		{outwards: rightwards, outside: outL, shift: 1000, answers: answers},
		{outwards: leftwards, outside: outR, shift: 2000, answers: answers},
	}}
	boxes := append([]box{s.nats[0], l}, more...)
	s.wire = newWire(inL, inR, append(boxes, s.nats[1])...)
	s.left, s.right = s.hosts(t, o)
	s.toLeft, s.toRight = netip.AddrPortFrom(outL, 6000), netip.AddrPortFrom(outR, 8000)
	s.beginning = time.Now()
	return s
}

// open lets both open, the left one skew later, and returns how long each took.
func (s *twoNATs) open(t *testing.T, skew, patience time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		err := s.right.Open(ctx, s.toLeft)
		s.rightT = time.Since(s.beginning)
		done <- err
	}()
	time.Sleep(skew)
	if err := s.left.Open(ctx, s.toRight); err != nil {
		t.Errorf("left: %v", err)
	}
	s.leftTook = time.Since(s.beginning)
	if err := <-done; err != nil {
		t.Errorf("right: %v", err)
	}
}

func (s *twoNATs) invalid() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nats[0].invalid + s.nats[1].invalid
}

// exchange sends n datagrams each way and returns how many came.
func (s *twoNATs) exchange(t *testing.T, n int) (left, right int) {
	t.Helper()
	before := [2]int{len(s.left.arrivals()), len(s.right.arrivals())}
	for i := 0; i < n && !t.Failed(); i++ {
		s.left.write(t, s.toRight, fmt.Sprint("to the right ", i))
		s.right.write(t, s.toLeft, fmt.Sprint("to the left ", i))
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(time.Second)
	return len(s.left.arrivals()) - before[0], len(s.right.arrivals()) - before[1]
}

// Shows S0-04, S0-05, S0-06, S0-07, S0-11, S0-12 and S4-10: both open at once
// behind routers that drop unsolicited SYNs and all that is INVALID; the
// SYN/ACKs have crossed after one round trip, the ACKs half a one later, and no
// segment is INVALID.
func TestOpensThroughTwoNATs(t *testing.T) {
	virtual(t, func(t *testing.T) {
		s := natted(t, false, &line{delay: 10 * time.Millisecond}, Options{})
		s.open(t, 0, 5*time.Second)
		if s.leftTook > 31*time.Millisecond || s.rightT > 31*time.Millisecond {
			t.Errorf("open took %v and %v", s.leftTook, s.rightT)
		}
		if l, r := s.exchange(t, 200); l != 200 || r != 200 {
			t.Errorf("%d and %d of 200 arrived", l, r)
		}
		if s.invalid() != 0 || s.nats[0].late+s.nats[1].late != 0 {
			t.Errorf("%d INVALID", s.invalid())
		}
	})
}

// Shows S4-08 and S4-10: whoever is late finds the other still trying, whether
// the routers drop or answer with RST. At worst a RST hits one router between
// the peer's SYN and our SYN/ACK, and a SYN 150 ms later mends it.
func TestOpensWithSkew(t *testing.T) {
	for _, answers := range []bool{false, true} {
		for _, skew := range []time.Duration{2, 20, 50, 100, 300, 1000} {
			t.Run(fmt.Sprintf("answers=%v,%dms", answers, skew), func(t *testing.T) {
				virtual(t, func(t *testing.T) {
					skew *= time.Millisecond
					s := natted(t, answers, &line{delay: 10 * time.Millisecond}, Options{})
					s.open(t, skew, 5*time.Second)
					if late := max(s.leftTook, s.rightT) - skew; late > 500*time.Millisecond && answers || late > 60*time.Millisecond && !answers {
						t.Errorf("open %v after the later one began", late)
					}
					if answers { // a RST may have hit a NAT behind the handshake: mended when data stays unanswered
						s.exchange(t, 60)
					}
					if l, r := s.exchange(t, 50); l != 50 || r != 50 {
						t.Errorf("%d and %d of 50 arrived", l, r)
					}
					if n := s.invalid(); n > 0 && !answers {
						t.Errorf("%d INVALID", n)
					}
				})
			})
		}
	}
}

// Shows S4-09 and the low-TTL variant of a SYN: a first SYN that dies on the way
// opens our own NAT, and the next has the same number.
func TestPrimes(t *testing.T) {
	virtual(t, func(t *testing.T) {
		dies := sieve(func(_ course, p *parcel) bool { return p.ttl < 10 })
		s := natted(t, true, &line{delay: 10 * time.Millisecond}, Options{}, dies)
		if err := errors.Join(s.left.Prime(s.toRight, 4), s.right.Prime(s.toLeft, 4)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
		s.beginning = time.Now()
		s.open(t, 0, 5*time.Second)
		if s.leftTook > 31*time.Millisecond || s.left.Counts().Refused+s.right.Counts().Refused > 0 {
			t.Errorf("open took %v; %+v", s.leftTook, s.left.Counts())
		}
		if l, r := s.exchange(t, 20); l != 20 || r != 20 || s.invalid() != 0 {
			t.Errorf("%d and %d of 20 arrived, %d INVALID", l, r, s.invalid())
		}
	})
}

// A handshake under loss costs some 20 ms for each SYN lost, and of data only
// what was lost is missing.
func TestOpensUnderLoss(t *testing.T) {
	for _, loss := range []float64{0.05, 0.20} {
		for seed := range uint64(20) {
			virtual(t, func(t *testing.T) {
				l := &line{delay: 10 * time.Millisecond, loss: loss, rng: rand.New(rand.NewPCG(seed, 1))}
				s := natted(t, seed%2 == 0, l, Options{})
				s.open(t, 0, 5*time.Second)
				if took := max(s.leftTook, s.rightT); took > 300*time.Millisecond {
					t.Errorf("seed %d, loss %v: open after %v", seed, loss, took)
				}
				if left, right := s.exchange(t, 100); float64(left+right) < 200*(1-loss)-30 {
					t.Errorf("seed %d, loss %v: %d and %d of 100 arrived", seed, loss, left, right)
				}
			})
		}
	}
}

// Shows S0-08, S0-09 and S0-10: boxes that shift sequence numbers on one side
// or both, behind NATs that change the port, and check that numbers are those
// of a real connection.
func TestOpensThroughShiftedNumbers(t *testing.T) {
	for seed := range uint64(10) {
		for _, loss := range []float64{0, 0.05} {
			virtual(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 2))
				one := &shifter{rng: rng, strict: true, both: seed%2 == 0}
				two := &shifter{rng: rng, strict: true, both: seed%3 == 0}
				s := natted(t, false, &line{delay: 10 * time.Millisecond, loss: loss, rng: rng}, Options{}, one, two)
				s.open(t, 0, 5*time.Second)
				left, right := s.exchange(t, 100)
				if one.resets+two.resets != 0 {
					t.Errorf("seed %d: %d resets", seed, one.resets+two.resets)
				}
				if loss == 0 && (left != 100 || right != 100 || s.invalid() != 0) {
					t.Errorf("seed %d: %d and %d of 100 arrived, %d INVALID", seed, left, right, s.invalid())
				}
			})
		}
	}
}

// Who aims at a port sends SYNs and waits for nothing: the peer's SYN, once our
// NAT lets it in, is answered, and only the peer opens.
func TestAnAimedSYNLetsThePeerIn(t *testing.T) {
	virtual(t, func(t *testing.T) {
		s := natted(t, false, &line{delay: 10 * time.Millisecond}, Options{})
		aim := Aim{At: []netip.AddrPort{s.toRight}, Rounds: []time.Duration{0, 50 * time.Millisecond}, Pace: func(context.Context) bool { return true }}
		found := make(chan struct{})
		r := &Rung{Conns: []dgram.Opener{s.left}, Candidates: []netip.AddrPort{netip.MustParseAddrPort("198.18.0.1:7")}, FireAt: time.Now(), Aim: aim, Found: found}
		over := make(chan error, 1)
		go func() {
			over <- r.Climb(t.Context(), func(context.Context, path.Path, path.Kind) (time.Duration, error) { return 0, nil })
		}()
		time.Sleep(30 * time.Millisecond)
		if err := s.right.Open(t.Context(), s.toLeft); err != nil {
			t.Fatal(err)
		}
		close(found)
		var f *path.Failure
		if err := <-over; !errors.As(err, &f) || f.Reason != "not-needed" {
			t.Errorf("the rung says %v", err)
		}
		time.Sleep(30 * time.Millisecond) // the peer's ACK arrives
		if l, r := s.exchange(t, 20); l != 20 || r != 20 || s.invalid() != 0 {
			t.Errorf("%d and %d of 20 arrived, %d INVALID", l, r, s.invalid())
		}
	})
}
