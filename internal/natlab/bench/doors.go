//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// stripedPort is one of the ports that the rules lead elsewhere.
const stripedPort = 9999

// striped compares a port that the rules of `rendezvous stripe` redirect with
// the one that it is redirected to. A sink stands in the coordinator's place:
// what follows the kernel's redirection is the same for both.
func striped(t netns.T, r *report) {
	const trials = 11
	s := netns.Standard(t, netns.Options{Wire: true, CarrierNAT: netns.Masquerade()})
	programs.Sink(s.VPS, netns.VPSAddr+":443")
	config := filepath.Join(s.Dir(), "rendezvous.yaml")
	if err := os.WriteFile(config, []byte("stripe: {addresses: ["+netns.VPSAddr+"]}\n"), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	s.VPS.NFT(s.VPS.Run("rendezvous", "stripe", "print", "--config", config))
	ports := []uint16{443, stripedPort}
	r.line("As fast as the load goes from the laptop to one socket on the VPS, 1400-byte datagrams for 0.5 s, by turns %d times each; Mbit/s that", trials)
	r.line("arrived, median.")
	r.line("")
	r.line("| shape | port 443, direct | port %d, striped |", stripedPort)
	r.line("|---|---|---|")
	ratios := map[string]float64{}
	for _, shape := range []string{single, bursts} {
		got := map[uint16][]float64{}
		for i := range trials {
			for j := range ports { // the one that begins has the cold caches
				port := ports[(i+j)%len(ports)]
				args := []string{"rate", "-to", fmt.Sprintf("%s:%d", netns.VPSAddr, port), "-rate", "0"}
				if shape == bursts {
					args = append(args, "-burst", "16")
				}
				var rate programs.Rate
				programs.Load(t, s.Laptop, &rate, args...)
				got[port] = append(got[port], rate.Mbit)
			}
		}
		// Turn by turn, for what disturbs one of a turn mostly disturbs the other.
		var each []float64
		for i, direct := range got[443] {
			each = append(each, got[stripedPort][i]/direct)
		}
		ratios[shape] = median(each)
		r.line("| %s | %.0f | %.0f |", shape, median(got[443]), median(got[stripedPort]))
	}
	r.line("")
	for _, shape := range []string{single, bursts} {
		r.target(ratios[shape] >= 0.95, "striped port against the direct listener, turn by turn, median, "+shape, fmt.Sprintf("%.2f times", ratios[shape]), "at least 0.95")
	}
}
