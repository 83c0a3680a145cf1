//go:build linux

package main

import (
	"errors"
	"os"
	"slices"
	"time"
)

// pinging is a stream of echoes at a steady pace, whether the last one was
// answered or not.
type pinging struct {
	socket   *socket
	size     int
	count    int
	interval time.Duration
	linger   time.Duration // how long answers may come after the last question
}

// pings is what came of it. Gaps are between answers as they arrived, so an
// interruption of the path shows as one.
type pings struct {
	Began        float64 `json:"began_ms"` // on CLOCK_MONOTONIC
	Sent         int     `json:"sent"`
	Answered     int     `json:"answered"`
	Duplicates   int     `json:"duplicates"`
	P5           float64 `json:"p5_us"` // what it is while nothing else disturbs
	P50          float64 `json:"p50_us"`
	P99          float64 `json:"p99_us"`
	P999         float64 `json:"p999_us"`
	Max          float64 `json:"max_us"`
	FirstArrival float64 `json:"first_arrival_ms"` // at the sink, since the first was sent; -1: none came
	FirstAnswer  float64 `json:"first_answer_ms"`  // back here
	LongestGap   float64 `json:"longest_gap_ms"`
	GapAt        float64 `json:"gap_at_ms"` // when it began, since the first was sent
}

// stream is a pinging under way.
type stream struct {
	pinging
	pings
	id         uint16
	begin, end time.Duration
	last       time.Duration // when the last answer came
	question   []byte
	answer     []byte
	answered   []bool
	trips      []time.Duration
}

// run sends and receives on one thread: what is due is sent before the next
// wait.
func (p pinging) run() (pings, error) {
	s := &stream{
		pinging:  p,
		pings:    pings{FirstArrival: -1, FirstAnswer: -1},
		begin:    monotonic(),
		question: make([]byte, p.size),
		answer:   make([]byte, maxSize),
		answered: make([]bool, p.count),
	}
	s.id, s.last, s.Began = uint16(s.begin), s.begin, millis(s.begin)
	s.end = s.begin + time.Duration(p.count-1)*p.interval + p.linger
	for !s.done() {
		due := s.due()
		if due <= monotonic() {
			if err := s.send(); err != nil {
				return s.pings, err
			}
		} else if err := s.receive(due); err != nil {
			return s.pings, err
		}
	}
	s.gap(s.begin, s.last, min(monotonic(), s.end-p.linger))
	s.quantiles(s.trips)
	return s.pings, nil
}

func (s *stream) done() bool {
	return s.Sent == s.count && (s.Answered == s.count || monotonic() >= s.end)
}

// due is when something is to be done that is not an answer: the next question
// or, after the last one, the end.
func (s *stream) due() time.Duration {
	if s.Sent < s.count {
		return s.begin + time.Duration(s.Sent)*s.interval
	}
	return s.end
}

func (s *stream) send() error {
	if s.Sent == s.count {
		return nil // the end has come between two looks at the clock
	}
	header{kind: kindEcho, run: s.id, number: uint64(s.Sent), sent: monotonic()}.put(s.question)
	s.Sent++
	return s.socket.send(s.question, len(s.question))
}

func (s *stream) receive(until time.Duration) error {
	n, err := s.socket.receive(s.answer, until-monotonic())
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	if err != nil {
		return err
	}
	h, err := parseHeader(s.answer[:n])
	if err != nil || h.kind != kindEchoed || h.run != s.id || h.number >= uint64(s.count) {
		return nil // of an earlier run, or nobody's
	}
	if s.answered[h.number] {
		s.Duplicates++
		return nil
	}
	s.answered[h.number] = true
	now := monotonic()
	s.trips = append(s.trips, now-h.sent)
	s.note(h, s.begin, s.last, now)
	s.last = now
	return nil
}

func (r *pings) note(h header, begin, last, arrived time.Duration) {
	if r.Answered++; r.Answered == 1 {
		r.FirstAnswer = millis(arrived - begin)
		r.FirstArrival = millis(h.seen - begin)
		return // what came before was set-up, not a gap
	}
	r.gap(begin, last, arrived)
}

func (r *pings) gap(begin, from, to time.Duration) {
	if r.Answered > 0 && millis(to-from) > r.LongestGap {
		r.LongestGap, r.GapAt = millis(to-from), millis(from-begin)
	}
}

func (r *pings) quantiles(t []time.Duration) {
	if len(t) == 0 {
		return
	}
	slices.Sort(t)
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	r.P5, r.P50, r.P99 = micros(t[len(t)/20]), micros(t[len(t)/2]), micros(t[len(t)*99/100])
	r.P999, r.Max = micros(t[len(t)*999/1000]), micros(t[len(t)-1])
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
