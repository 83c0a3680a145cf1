//go:build linux

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// crowd is many clients at once, each with a socket of its own.
type crowd struct {
	to      netip.AddrPort
	clients int
	rounds  int // echoes of each client, one after the other
	size    int
	pace    time.Duration // between the starts of two clients
	hold    time.Duration // how long all stay after the last round
}

// crowdResult is what came of it. An answer is strange when another client
// should have had it, or its content is not what was asked.
type crowdResult struct {
	Clients  int    `json:"clients"`
	Answered int    `json:"answered"` // clients that had every answer
	Answers  int    `json:"answers"`
	Strange  int    `json:"strange"`
	Sources  uint64 `json:"sources"` // addresses that the sink saw them from
}

const (
	tries     = 5
	firstWait = 500 * time.Millisecond // then twice as long each time
)

func (c crowd) run() (crowdResult, error) {
	run := uint16(monotonic())
	results := make([]crowdResult, c.clients)
	errs := make(chan error, c.clients)
	var done sync.WaitGroup
	var answered sync.WaitGroup
	answered.Add(c.clients)
	for i := range c.clients {
		done.Go(func() {
			conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(c.to))
			if err == nil {
				results[i], err = c.client(conn, run, i)
			}
			errs <- err
			answered.Done()
			answered.Wait() // nobody leaves before all have been served
			time.Sleep(c.hold)
			if conn != nil {
				conn.Close()
			}
		})
		time.Sleep(c.pace)
	}
	done.Wait()
	sum := crowdResult{Clients: c.clients}
	for i, r := range results {
		if err := <-errs; err != nil {
			return sum, fmt.Errorf("one of %d clients: %w", c.clients, err)
		}
		sum.Answered += results[i].Answered
		sum.Answers += r.Answers
		sum.Strange += r.Strange
	}
	counts, err := c.counts(run)
	sum.Sources = counts.sources
	return sum, err
}

func (c crowd) counts(run uint16) (counts, error) {
	s, err := dialSocket(c.to)
	if err != nil {
		return counts{}, err
	}
	sum, err := (&generator{socket: s, run: run}).settle()
	return sum, errors.Join(err, s.close())
}

// client asks round by round, each again until it is answered.
func (c crowd) client(conn *net.UDPConn, run uint16, i int) (crowdResult, error) {
	var r crowdResult
	question, answer := make([]byte, c.size), make([]byte, maxSize)
	for round := range c.rounds {
		number := uint64(i)<<32 | uint64(round)
		header{kind: kindEcho, checked: true, run: run, number: number}.put(question)
		fill(question[headerSize:], number)
		ok, err := c.ask(conn, question, answer, number, &r)
		if err != nil || !ok {
			return r, err
		}
		r.Answers++
	}
	r.Answered = 1
	return r, nil
}

func (c crowd) ask(conn *net.UDPConn, question, answer []byte, number uint64, r *crowdResult) (bool, error) {
	wait := firstWait
	for range tries {
		// An error here is that of an earlier datagram (ICMP); asking again
		// is all that helps.
		_, _ = conn.Write(question)
		if err := conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return false, err
		}
		for {
			n, err := conn.Read(answer)
			if err != nil {
				break
			}
			h, err := parseHeader(answer[:n])
			switch {
			case err != nil || h.kind != kindEchoed || n != len(question) || h.number>>32 != number>>32 || !filled(answer[headerSize:n], h.number):
				r.Strange++
			case h.number == number:
				return true, nil
			}
		}
		wait *= 2
	}
	return false, nil
}
