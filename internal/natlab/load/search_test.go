//go:build linux

package main

import (
	"errors"
	"testing"
	"time"
)

// network loses all above its capacity; the generator has a limit too.
func network(capacity, most float64) func(float64, time.Duration) (outcome, error) {
	return func(rate float64, _ time.Duration) (outcome, error) {
		sent := min(rate, most)
		o := outcome{Asked: rate, Rate: sent, Received: min(sent, capacity)}
		o.Loss = 1 - o.Received/sent
		return o, nil
	}
}

func quiet(string, ...any) {}

func TestSearchFindsTheCapacity(t *testing.T) {
	for _, test := range []struct {
		capacity, from float64
	}{{101_000, 20_000}, {101_000, 100_000}, {101_000, 10_000_000}, {3_000, 20_000}, {5_000_000, 1_000}} {
		s := seek{trial: network(test.capacity, 1e12), log: quiet, from: test.from, loss: 0.005}
		f, err := s.run()
		if err != nil {
			t.Fatal(err)
		}
		if f.Rate < test.capacity/precision || f.Rate > test.capacity*1.006 || !f.Confirmed || f.Limited {
			t.Errorf("from %.0f: found %+v, the capacity is %.0f", test.from, f, test.capacity)
		}
	}
}

func TestSearchSaysWhenTheGeneratorIsTheLimit(t *testing.T) {
	s := seek{trial: network(1e12, 300_000), log: quiet, from: 20_000, loss: 0.005}
	f, err := s.run()
	if err != nil || f.Rate != 300_000 || !f.Limited || !f.Confirmed {
		t.Errorf("found %+v, %v", f, err)
	}
}

func TestSearchGivesEachRateASecondChance(t *testing.T) {
	inner, calls := network(100_000, 1e12), 0
	s := seek{log: quiet, from: 20_000, loss: 0.005, trial: func(rate float64, d time.Duration) (outcome, error) {
		o, err := inner(rate, d)
		if calls++; calls%2 == 1 {
			o.Loss = 0.5 // somebody else had the processor
		}
		return o, err
	}}
	if f, err := s.run(); err != nil || f.Rate < 95_000 {
		t.Errorf("found %+v, %v", f, err)
	}
}

func TestSearchEnds(t *testing.T) {
	dead := seek{log: quiet, from: 20_000, trial: func(rate float64, _ time.Duration) (outcome, error) {
		return outcome{Asked: rate, Rate: rate, Loss: 1}, nil
	}}
	if _, err := dead.run(); err == nil {
		t.Error("found a rate where all is lost")
	}
	broken := errors.New("broken")
	fails := seek{log: quiet, from: 20_000, trial: func(float64, time.Duration) (outcome, error) { return outcome{}, broken }}
	if _, err := fails.run(); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

func TestGapIsTheLongestPause(t *testing.T) {
	r := pings{}
	begin := time.Second
	r.note(header{seen: begin + time.Millisecond}, begin, begin, begin+2*time.Millisecond)
	last := begin + 2*time.Millisecond
	for _, at := range []time.Duration{begin + 10*time.Millisecond, begin + 500*time.Millisecond, begin + 510*time.Millisecond} {
		r.note(header{}, begin, last, at)
		last = at
	}
	if r.FirstArrival != 1 || r.FirstAnswer != 2 || r.LongestGap != 490 || r.GapAt != 10 || r.Answered != 4 {
		t.Errorf("noted %+v", r)
	}
}
