//go:build linux

package main

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// sink is the service behind what is measured: it counts data and answers
// questions, each to where it came from.
type sink struct {
	socket *socket
	runs   map[uint16]*tally
	newest [keptRuns]uint16
	next   int
	out    [countsSize]byte
}

const (
	keptRuns = 8
	// nap lets datagrams gather while data flows, so that the sink takes
	// little of the processors that it shares with what is measured.
	nap = 100 * time.Microsecond
	// A number beyond this is refused: a tally's memory is a bit for each.
	maxNumber = 1 << 28
)

// tally is what came of one run.
type tally struct {
	counts
	seen    []uint64 // a bit for each number
	highest uint64
	from    map[netip.AddrPort]bool
	delays  delays
}

// serve answers until the socket fails.
func serve(listen netip.AddrPort) error {
	runtime.LockOSThread()
	s, err := listenSocket(listen)
	if err != nil {
		return err
	}
	if err := s.enableGRO(); err != nil {
		fmt.Fprintf(os.Stderr, "sink: %v; goes on without\n", err)
	}
	fmt.Printf("sink listens on %v\n", listen)
	k := &sink{socket: s, runs: map[uint16]*tally{}}
	in := new(batch)
	for {
		n, err := in.read(s)
		if err != nil {
			return err
		}
		data, now := false, monotonic()
		for i := range n {
			for b := range in.slot(i) {
				data = k.take(b, in.source(i), now) || data
			}
		}
		if data && n < slots {
			rest(nap)
		}
	}
}

// take does what a datagram asks for, and says whether it was data.
func (k *sink) take(b []byte, from netip.AddrPort, now time.Duration) bool {
	h, err := parseHeader(b)
	if err != nil {
		return false
	}
	switch h.kind {
	case kindData:
		k.tally(h.run).count(h, b, now)
		return true
	case kindAsk:
		h.kind = kindCounts
		h.put(k.out[:])
		t := k.tally(h.run)
		t.p50, t.p99 = t.delays.quantile(0.5), t.delays.quantile(0.99)
		t.put(k.out[:])
		k.answer(k.out[:], from)
	case kindEcho:
		k.tally(h.run).echo(h, b, from)
		h.kind, h.seen = kindEchoed, monotonic()
		h.put(b)
		k.answer(b, from)
	}
	return false
}

func (k *sink) answer(b []byte, to netip.AddrPort) {
	// An answer that can't be sent is one that the asker counts as lost.
	_ = unix.Sendto(k.socket.fd, b, 0, sockaddr(to))
}

// tally finds a run, or begins it in the place of the oldest one.
func (k *sink) tally(run uint16) *tally {
	t := k.runs[run]
	if t == nil {
		t = &tally{from: map[netip.AddrPort]bool{}}
		delete(k.runs, k.newest[k.next])
		k.newest[k.next] = run
		k.next = (k.next + 1) % keptRuns
		k.runs[run] = t
	}
	return t
}

func (t *tally) count(h header, b []byte, now time.Duration) {
	if h.number >= maxNumber || h.checked && !filled(b[headerSize:], h.number) {
		t.wrong++
		return
	}
	word, bit := h.number/64, uint64(1)<<(h.number%64)
	for uint64(len(t.seen)) <= word {
		t.seen = append(t.seen, make([]uint64, len(t.seen)+1024)...)
	}
	if t.seen[word]&bit != 0 {
		t.duplicates++
		return
	}
	t.seen[word] |= bit
	t.received++
	t.bytes += uint64(len(b))
	t.delays.add(now - h.sent)
	if h.number < t.highest {
		t.reordered++
	}
	t.highest = max(t.highest, h.number)
}

func (t *tally) echo(h header, b []byte, from netip.AddrPort) {
	if h.checked && !filled(b[headerSize:], h.number) {
		t.wrong++
	}
	if !t.from[from] {
		t.from[from] = true
		t.sources++
	}
}
