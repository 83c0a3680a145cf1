//go:build linux

package main

import (
	"fmt"
	"os"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// serviceWay is one way of a TCP connection, with what iperf3 got over it: to
// home and from home, with the interfaces' offload and without.
type serviceWay struct {
	name, bind, addr string
	with, without    [2][]float64
}

// tcpServices sets a TCP service on direct-udp beside TCP through the same NATs.
// With offload veth passes TCP's super-segments on uncut through all
// namespaces, which no network does; so what counts is without.
func tcpServices(t netns.T, r *report, runs int) {
	const each = 3 * time.Second
	n := programs.Start(t, netns.Options{
		Wire:       true,
		CarrierNAT: netns.Masquerade().Publish("tcp", 5201, netns.HomeWAN+":5201"),
		HomeNAT:    netns.Masquerade().Publish("tcp", 5201, netns.HomeAddr+":5201"),
	}, "echo=udp://127.0.0.1:9000", "home/echo=udp://127.0.0.1:9001")
	n.Home.Do("expose", "iperf=tcp://127.0.0.1:5201")
	n.Laptop.Do("dial", "home/iperf=tcp://127.0.0.1:5201")
	n.Reach(t, "127.0.0.1:9000", "127.0.0.1:9001", "direct-udp")
	ways := []*serviceWay{
		{name: "kernel alone, port forwarded", bind: netns.HomeAddr, addr: netns.HomePublic},
		{name: "TCP service on direct-udp", bind: "127.0.0.1", addr: "127.0.0.1"},
	}
	measure := func(w *serviceWay, into *[2][]float64) {
		for i, options := range [][]string{nil, {"-R"}} {
			into[i] = append(into[i], n.Iperf3By(n.Scene.Laptop, n.Scene.Home, w.bind, w.addr, each, options...))
		}
	}
	for i := range runs {
		for _, on := range []bool{true, false} {
			if on && i > 0 {
				continue // it is there to be seen, and nothing is compared with it
			}
			n.Offload(on)
			for _, w := range ways {
				fmt.Fprintf(os.Stderr, "run %d of %d: %s, offload %v\n", i+1, runs, w.name, on)
				if on {
					measure(w, &w.with)
				} else {
					measure(w, &w.without)
				}
			}
		}
	}
	if p, err := n.Laptop.Peer("home"); err != nil || p.Path != "direct-udp" {
		t.Fatalf("the laptop's path to home is %q in the end (%v)", p.Path, err)
	}
	r.line("iperf3, one connection from the laptop to home, %v, median, Mbit/s; no delay, MTU 1500. Without offload (ethtool -K tso off gso off", each)
	r.line("gro off, on all interfaces) each segment and datagram crosses by itself, as in a network.")
	r.line("")
	r.line("| way | to home | from home | to home, no offload | from home, no offload |")
	r.line("|---|---|---|---|---|")
	for _, w := range ways {
		r.line("| %s | %.0f | %.0f | %.0f | %.0f |", w.name, median(w.with[0]), median(w.with[1]), median(w.without[0]), median(w.without[1]))
	}
	r.line("")
	for i, direction := range []string{"to home", "from home"} {
		ratio := median(ways[1].without[i]) / median(ways[0].without[i])
		r.target(ratio >= 0.5, fmt.Sprintf("TCP service on direct-udp against iperf3 directly, without offload, %s", direction), fmt.Sprintf("%.2f times", ratio), "at least 0.5")
	}
}
