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
	Sent         int     `json:"sent"`
	Answered     int     `json:"answered"`
	Duplicates   int     `json:"duplicates"`
	P50          float64 `json:"p50_us"`
	P99          float64 `json:"p99_us"`
	Max          float64 `json:"max_us"`
	FirstArrival float64 `json:"first_arrival_ms"` // at the sink, since the first was sent; -1: none came
	FirstAnswer  float64 `json:"first_answer_ms"`  // back here
	LongestGap   float64 `json:"longest_gap_ms"`
	GapAt        float64 `json:"gap_at_ms"` // when it began, since the first was sent
}

// run sends and receives on one thread: what is due is sent before the next
// wait.
func (p pinging) run() (pings, error) {
	result := pings{FirstArrival: -1, FirstAnswer: -1}
	question, answer := make([]byte, p.size), make([]byte, maxSize)
	answered := make([]bool, p.count)
	var trips []time.Duration
	run := uint16(monotonic())
	begin := monotonic()
	end := begin + time.Duration(p.count-1)*p.interval + p.linger
	lastAnswer := begin
	for {
		now := monotonic()
		if result.Sent < p.count && now >= begin+time.Duration(result.Sent)*p.interval {
			header{kind: kindEcho, run: run, number: uint64(result.Sent), sent: now}.put(question)
			if err := p.socket.send(question, len(question)); err != nil {
				return result, err
			}
			result.Sent++
			continue
		}
		until := end
		if result.Sent < p.count {
			until = begin + time.Duration(result.Sent)*p.interval
		}
		if result.Sent == p.count && (result.Answered == p.count || now >= end) {
			break
		}
		n, err := p.socket.receive(answer, until-now)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return result, err
		}
		h, err := parseHeader(answer[:n])
		if err != nil || h.kind != kindEchoed || h.run != run || h.number >= uint64(p.count) {
			continue
		}
		if answered[h.number] {
			result.Duplicates++
			continue
		}
		answered[h.number] = true
		arrived := monotonic()
		trips = append(trips, arrived-h.sent)
		result.note(h, begin, lastAnswer, arrived)
		lastAnswer = arrived
	}
	result.gap(begin, lastAnswer, min(monotonic(), end-p.linger))
	result.trips(trips)
	return result, nil
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

func (r *pings) trips(t []time.Duration) {
	if len(t) == 0 {
		return
	}
	slices.Sort(t)
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	r.P50, r.P99, r.Max = micros(t[len(t)/2]), micros(t[len(t)*99/100]), micros(t[len(t)-1])
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }
