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

// mergedBursts are cut where they leave, as in a network, and merged where they
// arrive, as network cards do.
const mergedBursts = "bursts of 16, cut and merged"

// striped compares a port that `rendezvous stripe` leads elsewhere with the one
// that it leads to. A sink stands in the coordinator's place: what follows the
// kernel's translation is the same for both.
func striped(t netns.T, r *report) {
	// One turn is up to a fifth off, by which processor does what in it, so many
	// short ones are needed for a twentieth.
	const turns = 81
	s := netns.Standard(t, netns.Options{Wire: true, CarrierNAT: netns.Masquerade()})
	programs.Sink(s.VPS, netns.VPSAddr+":443")
	config := filepath.Join(s.Dir(), "rendezvous.yaml")
	if err := os.WriteFile(config, []byte("stripe: {addresses: ["+netns.VPSAddr+"]}\n"), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	s.VPS.Run("rendezvous", "stripe", "apply", "--config", config)
	r.line("As fast as the load goes from the laptop to one socket on the VPS, 1400-byte datagrams for 80 ms, by turns %d times each; Mbit/s that", turns)
	r.line("arrived, median. Cut and merged: without offload on the way, and with GRO on the VPS's interface, which merges for a striped port only")
	r.line("as `stripe apply` has switched it.")
	r.line("")
	r.line("| shape | port 443, direct | port %d, striped |", stripedPort)
	r.line("|---|---|---|")
	ratios := map[string]float64{}
	for _, shape := range []string{single, bursts, mergedBursts} {
		args := []string{"-rate", "0", "-for", "80ms"}
		if shape != single {
			args = append(args, "-burst", "16")
		}
		if shape == mergedBursts {
			s.Offload(false)
			s.VPS.Run("ethtool", "-K", netns.WAN, "gro", "on")
		}
		direct, led := byTurns(t, s, turns, args)
		ratios[shape] = median(quotients(led, direct))
		r.line("| %s | %.0f | %.0f |", shape, median(direct), median(led))
	}
	r.line("")
	const what = "striped port against the direct listener, turn by turn, median, "
	for _, shape := range []string{single, bursts} {
		r.target(ratios[shape] >= 0.95, what+shape, fmt.Sprintf("%.2f times", ratios[shape]), "at least 0.95")
	}
	r.line("- %s%s: **%.2f times**", what, mergedBursts, ratios[mergedBursts])
}

// byTurns is what arrived of the load at the direct port and at the striped one,
// in Mbit/s.
func byTurns(t netns.T, s *netns.Scene, turns int, args []string) (direct, led []float64) {
	got := map[uint16][]float64{}
	ports := []uint16{443, stripedPort}
	for i := range turns {
		for j := range ports { // the one that begins has the cold caches
			port := ports[(i+j)%len(ports)]
			var rate programs.Rate
			programs.Load(t, s.Laptop, &rate, append([]string{"rate", "-to", fmt.Sprintf("%s:%d", netns.VPSAddr, port)}, args...)...)
			got[port] = append(got[port], rate.Mbit)
		}
	}
	return got[443], got[stripedPort]
}

// quotients are turn by turn, for what disturbs one of a turn mostly disturbs
// the other.
func quotients(a, b []float64) (out []float64) {
	for i := range a {
		out = append(out, a[i]/b[i])
	}
	return out
}
