//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"time"
)

// shape is how the load looks.
type shape struct {
	size    int  // bytes a datagram
	burst   int  // datagrams a system call
	checked bool // the sink checks the content
}

// outcome is one trial.
type outcome struct {
	Asked    float64 `json:"asked_pps"`
	Rate     float64 `json:"pps"` // what the generator sent
	Received float64 `json:"received_pps"`
	Mbit     float64 `json:"mbit_s"` // what arrived, without headers
	Loss     float64 `json:"loss"`
	Sent     uint64  `json:"sent"`
	Delay50  uint64  `json:"delay_p50_us"` // of what arrived, one way
	Delay99  uint64  `json:"delay_p99_us"`
	counts   counts
	seconds  float64
}

// limited says that the generator could not send as fast as it was asked to.
func (o outcome) limited() bool { return o.Asked > 0 && o.Rate < 0.9*o.Asked }

// generator sends to one address through one socket.
type generator struct {
	socket *socket
	shape
	run    uint16
	buffer []byte
	turns  []*socket // where data leaves from, one burst after the other; none: socket
}

const (
	tick = 100 * time.Microsecond
	// debt is how much lateness is made up for: more would drown what is
	// measured in the consequences of the generator's own pauses.
	debt = 3 * time.Millisecond
	// maxAtOnce bounds what is sent between two looks at the clock.
	maxAtOnce = 256
	// answerIn is how long the sink's answer may take; paths that are
	// overloaded lose it, so it is asked for again.
	answerIn = 300 * time.Millisecond
	askings  = 20
)

// trial sends at a rate for a time (rate 0: as fast as possible) and then asks
// what arrived.
func (g *generator) trial(rate float64, d time.Duration) (outcome, error) {
	g.run++
	g.buffer = make([]byte, g.size*g.burst)
	begin := monotonic()
	var sent uint64
	due, last := 0.0, begin
	for now := begin; now-begin < d; now = monotonic() {
		if rate > 0 {
			due = min(due+rate*(now-last).Seconds(), rate*debt.Seconds()+float64(g.burst))
			last = now
			if due < float64(g.burst) {
				rest(tick)
				continue
			}
		}
		for n := 0; n < maxAtOnce && (rate == 0 || due >= float64(g.burst)); n += g.burst {
			if err := g.sendBurst(sent); err != nil {
				return outcome{}, err
			}
			sent += uint64(g.burst)
			due -= float64(g.burst)
		}
	}
	seconds := (monotonic() - begin).Seconds()
	c, err := g.settle()
	if err != nil {
		return outcome{}, err
	}
	o := outcome{Asked: rate, Sent: sent, Delay50: c.p50, Delay99: c.p99, counts: c, seconds: seconds}
	o.Rate, o.Received = float64(sent)/seconds, float64(c.received)/seconds
	o.Mbit = float64(c.bytes) * 8 / seconds / 1e6
	if sent > 0 {
		o.Loss = 1 - float64(c.received)/float64(sent)
	}
	return o, nil
}

func (g *generator) sendBurst(number uint64) error {
	now := monotonic()
	for i := range g.burst {
		b := g.buffer[i*g.size : (i+1)*g.size]
		h := header{kind: kindData, checked: g.checked, run: g.run, number: number + uint64(i), sent: now}
		h.put(b)
		if g.checked {
			fill(b[headerSize:], h.number)
		}
	}
	if n := uint64(len(g.turns)); n > 0 {
		return g.turns[number/uint64(g.burst)%n].send(g.buffer, g.size)
	}
	return g.socket.send(g.buffer, g.size)
}

// settle asks for the counts until two answers agree: nothing is under way
// any more.
func (g *generator) settle() (counts, error) {
	last, have := counts{}, false
	for range askings {
		c, err := g.ask()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return counts{}, err
		}
		if have && c == last {
			return c, nil
		}
		last, have = c, true
		rest(20 * time.Millisecond)
	}
	if have {
		return last, nil
	}
	return counts{}, fmt.Errorf("ask the sink for its counts: no answer to %d questions; does it run, and does what is measured carry both ways?", askings)
}

func (g *generator) ask() (counts, error) {
	question := make([]byte, countsSize)
	number := uint64(monotonic())
	header{kind: kindAsk, run: g.run, number: number}.put(question)
	if err := g.socket.send(question, len(question)); err != nil {
		return counts{}, err
	}
	deadline := monotonic() + answerIn
	b := make([]byte, maxSize)
	for {
		n, err := g.socket.receive(b, deadline-monotonic())
		if err != nil {
			return counts{}, err
		}
		if h, err := parseHeader(b[:n]); err == nil && h.kind == kindCounts && h.number == number {
			return parseCounts(b[:n])
		}
	}
}
