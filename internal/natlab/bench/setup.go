//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"rendezvous/internal/natlab/hop"
	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

const (
	setUps        = 5
	introductions = 30
	oneWay        = 20 * time.Millisecond
	roundTrip     = 2 * oneWay
	// idleFor lets agents that have just registered become idle ones: set-up is
	// that of a client's first datagram, not of the agent's start.
	idleFor = time.Second
)

// setUp measures from the first datagram of a client to its arrival at the
// service, and to the direct path, in units of the round trip to the
// coordinator. Each time is a scene of its own: nothing is known of the peer.
func setUp(t netns.T, r *report) {
	var arrivals, directs []float64
	for n := range setUps {
		var arrival, direct float64
		netns.Scope(t, func(t netns.T) { arrival, direct = oneSetUp(t) })
		r.line("- set-up %d: first datagram at the service after %.1f ms, direct-udp after %.1f ms", n+1, arrival, direct)
		arrivals, directs = append(arrivals, arrival), append(directs, direct)
	}
	unit := float64(roundTrip.Milliseconds())
	arrival, direct := median(arrivals)/unit, median(directs)/unit
	r.target(arrival <= 3, "first datagram at the service, median", fmt.Sprintf("%.2f round trips", arrival), "3")
	r.target(direct <= 4, "best path is direct-udp, median", fmt.Sprintf("%.2f round trips", direct), "4")
}

// oneSetUp gives both times in milliseconds. The path is taken as direct-udp
// when the first sealed datagram of the client's crosses the internet to the
// home's carrier.
func oneSetUp(t netns.T) (arrival, direct float64) {
	n := programs.Start(t, netns.DefaultOptions(), "echo=udp://127.0.0.1:9000", "home/echo=udp://127.0.0.1:9001")
	programs.Sink(n.Scene.Home, "127.0.0.1:9000")
	w := &watch{want: isData}
	w.reset()
	n.Internet.SetTap(w.see)
	time.Sleep(idleFor)
	var p programs.Pings
	programs.Load(t, n.Scene.Laptop, &p, "ping", "-to", "127.0.0.1:9001", "-size", "100", "-n", "1000", "-interval", "1ms")
	if p.Answered == 0 {
		t.Fatalf("none of %d datagrams was answered", p.Sent)
	}
	first, ok := w.first("laptoprouter")
	if !ok {
		t.Fatalf("no data went directly while %d datagrams were sent", p.Sent)
	}
	n.Laptop.WaitPath("home", "direct-udp", 5*time.Second)
	return p.FirstArrival, float64(first.Microseconds())/1e3 - p.Began
}

// synchronisation measures how far apart both sides' first probes leave when
// one agent is near the coordinator and the other far. Both agents start anew
// for each introduction, so that none remembers the other.
func synchronisation(t netns.T, r *report) {
	o := netns.DefaultOptions()
	o.VPSHome, o.VPSLaptop = 120*time.Millisecond, 20*time.Millisecond
	n := programs.Start(t, o, "echo=udp://127.0.0.1:9000", "home/echo=udp://127.0.0.1:9001")
	programs.Sink(n.Scene.Home, "127.0.0.1:9000")
	w := &watch{want: isProbe}
	w.reset()
	n.Internet.SetTap(w.see)
	var apart []float64
	for range introductions {
		n.Laptop.Stop()
		n.Home.Stop()
		n.Home.Up("--expose", "echo=udp://127.0.0.1:9000")
		n.Laptop.Up("--dial", "home/echo=udp://127.0.0.1:9001")
		w.reset()
		var p programs.Pings
		programs.Load(t, n.Scene.Laptop, &p, "ping", "-to", "127.0.0.1:9001", "-size", "100", "-n", "10", "-interval", "100ms")
		ms, err := w.apart()
		if err != nil {
			t.Fatalf("%v", err)
		}
		apart = append(apart, ms)
	}
	most := 0.0
	for _, ms := range apart {
		most = max(most, ms)
	}
	r.target(median(apart) <= 5, fmt.Sprintf("first probes apart, median of %d introductions", introductions),
		fmt.Sprintf("%.2f ms", median(apart)), "at most 5 ms")
	r.line("- the furthest apart: %.2f ms", most)
}

// watch notes when the first datagram of a sort enters the internet from each
// side.
type watch struct {
	want func(payload []byte) bool

	mu    sync.Mutex
	since map[string]time.Duration // by port of the internet
}

// What a datagram is stands in its first byte, as proto/SPEC.md fixes it.
func isProbe(b []byte) bool { return b[0] == 0x81 }

// isData leaves out flow 0, which is the session's own.
func isData(b []byte) bool {
	return b[0]>>5 == 0b101 && len(b) > 4 && binary.BigEndian.Uint32(b)>>14&0x3fff != 0
}

func (w *watch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since = map[string]time.Duration{}
}

func (w *watch) see(s hop.Sighting) {
	const udp, payload = 17, 20 + 8 // nobody here sends IP options
	if s.From == "vps" || s.To == "vps" || len(s.Packet) <= payload || s.Packet[9] != udp || !w.want(s.Packet[payload:]) {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, seen := w.since[s.From]; !seen {
		w.since[s.From] = s.At
	}
}

func (w *watch) first(port string) (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	at, ok := w.since[port]
	return at, ok
}

func (w *watch) apart() (float64, error) {
	home, ok := w.first("carrier")
	laptop, ok2 := w.first("laptoprouter")
	if !ok || !ok2 {
		return 0, fmt.Errorf("wait for both sides' first probes: saw home's %v, the laptop's %v", ok, ok2)
	}
	return float64((home - laptop).Abs().Microseconds()) / 1e3, nil
}
