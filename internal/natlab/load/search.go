//go:build linux

package main

import (
	"fmt"
	"time"
)

// seek is a search for the highest rate that crosses with little loss.
type seek struct {
	trial func(rate float64, d time.Duration) (outcome, error)
	log   func(format string, args ...any)
	from  float64       // datagrams a second to begin with
	loss  float64       // what is little
	short time.Duration // of a trial
	long  time.Duration // of the last one, which must hold
}

// found is the result of a search.
type found struct {
	outcome
	Confirmed bool `json:"confirmed"`         // the long trial held
	Limited   bool `json:"generator_limited"` // the generator could do no more: a floor
}

const (
	precision  = 1.04 // the search ends when the bounds are this near
	lowestRate = 100
)

// run doubles the rate until a trial fails, closes in on the bound between
// the last that held and the first that failed, and confirms.
func (s seek) run() (found, error) {
	good, bad, limited, err := s.double()
	if err != nil {
		return found{}, err
	}
	for bad > 0 && bad/good > precision {
		middle := (good + bad) / 2
		held, o, err := s.holds(middle, s.short)
		switch {
		case err != nil:
			return found{}, err
		case held && o.limited():
			good, bad, limited = o.Rate, 0, true
		case held:
			good = middle
		default:
			bad = middle
		}
	}
	return s.confirm(good, limited)
}

// double gives the highest rate that held and the lowest that failed, 0 when
// the generator came to its end first.
func (s seek) double() (good, bad float64, limited bool, err error) {
	for rate := s.from; ; rate *= 2 {
		held, o, err := s.holds(rate, s.short)
		switch {
		case err != nil:
			return 0, 0, false, err
		case held && o.limited():
			return o.Rate, 0, true, nil
		case held:
			good = rate
			continue
		case good > 0:
			return good, rate, false, nil
		case rate < lowestRate:
			return 0, 0, false, fmt.Errorf("at %.0f datagrams a second %.1f %% are lost", rate, o.Loss*100)
		}
		rate /= 8 // 4 after doubling: the start was too high
	}
}

// confirm lowers the rate until a long trial holds.
func (s seek) confirm(rate float64, limited bool) (found, error) {
	for range 12 {
		held, o, err := s.holds(rate, s.long)
		if err != nil {
			return found{}, err
		}
		if held {
			return found{outcome: o, Confirmed: true, Limited: limited}, nil
		}
		rate, limited = rate/precision, false
	}
	_, o, err := s.holds(rate, s.long)
	return found{outcome: o}, err
}

// holds tries a rate, and once more when it fails: the machine has other work
// too.
func (s seek) holds(rate float64, d time.Duration) (bool, outcome, error) {
	var o outcome
	for range 2 {
		var err error
		if o, err = s.trial(rate, d); err != nil {
			return false, o, err
		}
		s.log("%8.0f/s asked, %8.0f/s sent, %6.3f %% lost", rate, o.Rate, o.Loss*100)
		if o.Loss <= s.loss {
			return true, o, nil
		}
	}
	return false, o, nil
}
