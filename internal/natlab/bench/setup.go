//go:build linux

package main

import (
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

// oneSetUp gives both times in milliseconds.
func oneSetUp(t netns.T) (arrival, direct float64) {
	n := programs.Start(t, netns.DefaultOptions(), "echo=udp://127.0.0.1:9000", "home/echo=udp://127.0.0.1:9001")
	programs.Sink(n.Scene.Home, "127.0.0.1:9000")
	time.Sleep(idleFor)
	var p programs.Pings
	programs.Load(t, n.Scene.Laptop, &p, "ping", "-to", "127.0.0.1:9001", "-size", "100", "-n", "1000", "-interval", "1ms")
	if p.Answered == 0 {
		t.Fatalf("none of %d datagrams was answered", p.Sent)
	}
	n.Laptop.WaitPath("home", "direct-udp", 5*time.Second)
	peer, err := n.Laptop.Peer("home")
	if err != nil {
		t.Fatalf("%v", err)
	}
	return p.FirstArrival, float64(peer.Since.Sub(p.Began).Microseconds()) / 1e3
}

// synchronisation measures how far apart both sides' first probes leave when
// one agent is near the coordinator and the other far. Both agents start anew
// for each introduction, so that none remembers the other.
func synchronisation(t netns.T, r *report) {
	o := netns.DefaultOptions()
	o.VPSHome, o.VPSLaptop = 120*time.Millisecond, 20*time.Millisecond
	n := programs.Start(t, o, "echo=udp://127.0.0.1:9000", "home/echo=udp://127.0.0.1:9001")
	programs.Sink(n.Scene.Home, "127.0.0.1:9000")
	w := &watch{}
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

// watch notes when the first probe of each side enters the internet.
type watch struct {
	mu     sync.Mutex
	probes map[string]time.Duration // by port
}

func (w *watch) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.probes = map[string]time.Duration{}
}

// A probe's first byte, which proto/SPEC.md fixes.
const probeByte = 0x81

func (w *watch) see(s hop.Sighting) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s.From == "vps" || s.To == "vps" || w.probes == nil {
		return
	}
	const udpPayload = 20 + 8 // nobody here sends IP options
	if len(s.Packet) <= udpPayload || s.Packet[9] != 17 || s.Packet[udpPayload] != probeByte {
		return
	}
	if _, seen := w.probes[s.From]; !seen {
		w.probes[s.From] = s.At
	}
}

func (w *watch) apart() (float64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	home, ok := w.probes["carrier"]
	laptop, ok2 := w.probes["laptoprouter"]
	if !ok || !ok2 {
		return 0, fmt.Errorf("wait for both sides' first probes: saw only %v", w.probes)
	}
	return float64((home - laptop).Abs().Microseconds()) / 1e3, nil
}
