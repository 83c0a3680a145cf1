//go:build linux

package main

import (
	"fmt"
	"time"
)

// many is one load out of many sockets in turn, as many clients make it that
// each send little.
type many struct {
	generator
	clients int
	pace    time.Duration // between the first datagrams of two clients
	sockets []*socket
}

// manyResult is what came of it.
type manyResult struct {
	Single   outcome `json:"single"` // one datagram of a client at a time
	Bursts   outcome `json:"bursts"` // as many as -burst says
	Clients  int     `json:"clients"`
	Answered int     `json:"answered"` // clients whose first datagram was answered
	Sources  uint64  `json:"sources"`  // addresses that the sink saw them from
	Strange  int     `json:"strange"`  // answers that were another client's
}

// settled is how long all that is new may take to calm down before the load.
const settled = 2 * time.Second

func manyClients(o options) (any, error) {
	b, err := newBench(o)
	if err != nil {
		return nil, err
	}
	m := many{generator: b.generator, clients: o.count, pace: o.interval}
	r, err := m.introduce()
	if err != nil {
		return nil, err
	}
	time.Sleep(settled)
	m.turns = m.sockets
	m.burst = 1
	if r.Single, err = m.trial(o.rate, o.length); err != nil {
		return nil, err
	}
	time.Sleep(settled)
	m.burst = o.burst
	r.Bursts, err = m.trial(o.rate, o.length)
	return r, err
}

// introduce opens all sockets at the pace, asks from each for one echo, and
// again from those that had none.
func (m *many) introduce() (manyResult, error) {
	r := manyResult{Clients: m.clients}
	m.run++
	answered := make([]bool, m.clients)
	for i := range m.clients {
		s, err := dialSocket(m.socket.peer)
		if err != nil {
			return r, fmt.Errorf("client %d: %w", i, err)
		}
		// The kernel's memory is for what is measured.
		s.shrink()
		m.sockets = append(m.sockets, s)
		if err := m.greet(i); err != nil {
			return r, err
		}
		for due := monotonic() + m.pace; monotonic() < due; {
			rest(min(m.pace, tick))
		}
	}
	for try := range tries {
		rest(firstWait)
		for i, ok := range answered {
			if !ok && !m.heard(i, &r) {
				if try < tries-1 {
					if err := m.greet(i); err != nil {
						return r, err
					}
				}
				continue
			}
			if !ok {
				answered[i] = true
				r.Answered++
			}
		}
		if r.Answered == m.clients {
			break
		}
	}
	c, err := m.settle()
	r.Sources = c.sources
	return r, err
}

func (m *many) greet(i int) error {
	b := make([]byte, m.size)
	header{kind: kindEcho, run: m.run, number: uint64(i)}.put(b)
	return m.sockets[i].send(b, len(b))
}

// heard takes what has come for a client.
func (m *many) heard(i int, r *manyResult) bool {
	b := make([]byte, maxSize)
	for {
		n, err := m.sockets[i].take(b)
		if err != nil {
			return false
		}
		h, err := parseHeader(b[:n])
		if err != nil || h.kind != kindEchoed || h.run != m.run {
			continue
		}
		if h.number != uint64(i) {
			r.Strange++
			continue
		}
		return true
	}
}
