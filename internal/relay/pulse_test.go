package relay

import (
	"errors"
	"net"
	"testing"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/natlab/bubble"
)

// beats runs a Pulse as its owner would, until it fails or d has passed, and
// says when binds left.
func beats(t *testing.T, w *wire, p *Pulse, d time.Duration) (at []time.Duration, err error) {
	t.Helper()
	began := time.Now()
	w.losing(func(b []byte) bool {
		if b[0] == 0x83 {
			at = append(at, time.Since(began))
		}
		return false
	})
	for again := p.First(); time.Since(began) < d; {
		time.Sleep(again)
		if again, err = p.Beat(); err != nil {
			return at, err
		}
	}
	return at, nil
}

// S3-09, S3-10: a leg is bound as often as the coordinator granted, and legs that
// began together wander apart.
func TestPulseKeepsTimeAndSpreads(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		firsts := map[time.Duration]bool{}
		for range 5 {
			w := newWire(t)
			if err := w.legs[0].Claim(t.Context()); err != nil {
				t.Fatal(err)
			}
			at, err := beats(t, w, NewPulse(w.legs[0], 25*time.Second), 5*time.Minute)
			if err != nil || len(at) < 12 || len(at) > 15 {
				t.Fatalf("%d binds in 5 minutes at 25 s, %v", len(at), err)
			}
			for i := 1; i < len(at); i++ {
				if gap := at[i] - at[i-1]; gap > 25*time.Second || gap < 21*time.Second {
					t.Errorf("%v between binds %d and %d", gap, i-1, i)
				}
			}
			firsts[at[0].Round(10*time.Millisecond)] = true
		}
		if len(firsts) < 4 {
			t.Errorf("5 legs refresh at %v", firsts)
		}
	})
}

func TestPulseEnds(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		if err := w.legs[0].Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := NewPulse(w.legs[0], 0)
		w.losing(func([]byte) bool { return true })
		began := time.Now()
		var err error
		for again := time.Duration(0); err == nil; {
			time.Sleep(again)
			again, err = p.Beat()
		}
		if got := time.Since(began); !errors.Is(err, ErrSilent) || got != 15*time.Second {
			t.Errorf("a silent relay: %v after %v", err, got)
		}

		closed := &fakeConn{addr: homeAddr, deliver: func(dgram.Burst) error { return net.ErrClosed }}
		l, err := NewLeg(closed, relayAddr, w.allocation(0))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewPulse(l, 0).Beat(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed conn: %v", err)
		}
	})
}

// One lost answer among others is repeated and forgotten; an allocation that has
// ended is told at once.
func TestPulseSurvivesLossAndHearsOfTheEnd(t *testing.T) {
	bubble.Test(t, func(t *testing.T) {
		w := newWire(t)
		if err := w.legs[0].Claim(t.Context()); err != nil {
			t.Fatal(err)
		}
		p := NewPulse(w.legs[0], 10*time.Second)
		lost := 0
		w.losing(func(b []byte) bool { lost++; return lost <= 3 })
		began := time.Now()
		for again := time.Duration(0); time.Since(began) < 9*time.Second; {
			time.Sleep(again)
			var err error
			if again, err = p.Beat(); err != nil {
				t.Fatalf("after %v: %v", time.Since(began), err)
			}
		}
		w.losing(func([]byte) bool { return false })
		w.legs[0].mu.Lock()
		w.legs[0].gone = true
		w.legs[0].mu.Unlock()
		if _, err := p.Beat(); !errors.Is(err, ErrGone) {
			t.Errorf("an allocation that has ended: %v", err)
		}
	})
}
