//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// The ways to one socket that the part "stripe" compares.
const (
	bareWay    = "the listener's port, no rules"
	directWay  = "the listener's port, beside the rules"
	stripedWay = "a striped port"
)

// Ports of the part "stripe": where the sink is, where iperf3 is, and one that
// leads to them.
const (
	sinkPort   = "9000"
	iperfPort  = "5201" // its default
	anyPort    = "5060"
	stripeWant = 0.95
)

// striping compares a port of the VPS that is translated with the one that it
// leads to: bursts over UDP to a sink, and TCP by iperf3.
func striping(t netns.T, r *report, runs int) {
	s := netns.Standard(t, netns.Options{Wire: true})
	programs.Sink(s.VPS, netns.VPSAddr+":"+sinkPort)
	config := filepath.Join(s.Dir(), "stripe.yaml")
	settings := fmt.Sprintf("listen: %q\nalternate_port: 0\nstripe: {addresses: [%s], udp: %s, tcp: %s}\n", netns.VPSAddr+":443", netns.VPSAddr, sinkPort, iperfPort)
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	apply := func(word string) { s.VPS.Run("rendezvous", "stripe", word, "--config", config) }
	udp, tcp := map[string][]float64{}, map[string][]float64{}
	measure := func(way, udpPort, tcpPort string) {
		fmt.Fprintln(os.Stderr, "stripe:", way)
		var rate programs.Rate
		programs.Load(t, s.LaptopRouter, &rate, "search", "-to", netns.VPSAddr+":"+udpPort, "-size", "1400", "-burst", "16")
		udp[way] = append(udp[way], rate.Rate/1e3)
		tcp[way] = append(tcp[way], s.Iperf3(s.LaptopRouter, s.VPS, netns.VPSAddr, 3*time.Second, "--port", tcpPort))
	}
	for range runs {
		measure(bareWay, sinkPort, iperfPort)
		apply("apply")
		for range 2 { // by turns, so that a noisy moment hurts both alike
			measure(directWay, sinkPort, iperfPort)
			measure(stripedWay, anyPort, anyPort)
		}
		apply("remove")
	}
	r.line("| way | k/s, 1400 bytes, %s | TCP, Mbit/s |", bursts)
	r.line("|---|---|---|")
	for _, way := range []string{bareWay, directWay, stripedWay} {
		r.line("| %s | %.0f | %.0f |", way, median(udp[way]), median(tcp[way]))
	}
	r.line("")
	for _, each := range []struct {
		what  string
		found map[string][]float64
	}{{"UDP", udp}, {"TCP", tcp}} {
		ratio := median(each.found[stripedWay]) / median(each.found[directWay])
		r.target(ratio >= stripeWant, stripedWay+" against "+directWay+", "+each.what, fmt.Sprintf("%.2f times", ratio), "at least 0.95")
	}
}
