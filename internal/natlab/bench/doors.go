//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// stripedPort is one of the ports that the rules lead elsewhere.
const stripedPort = 9999

// striped compares a port that the rules of `rendezvous stripe` redirect with
// the one that it is redirected to. A sink stands in the coordinator's place:
// what follows the kernel's redirection is the same for both.
func striped(t netns.T, r *report) {
	const trials = 15
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

// inspection measures what it costs a new flow that its first bytes are looked
// at, by the benchmarks of package share.
func inspection(t netns.T, r *report) {
	const most, rounds, each = 20_000.0, 15, 1000
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", ".", "-benchtime", fmt.Sprintf("%dx", each), "-count", strconv.Itoa(rounds), "rendezvous/internal/share")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("run the benchmarks of package share: %v: %s", err, out)
	}
	times := map[string][]float64{}
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") || fields[3] != "ns/op" {
			continue
		}
		ns, err := strconv.ParseFloat(fields[2], 64)
		if err != nil {
			t.Fatalf("read %q: %v", line, err)
		}
		name := strings.TrimPrefix(fields[0], "Benchmark")
		if i := strings.LastIndexByte(name, '-'); i > 0 {
			name = name[:i] // the number of processors
		}
		times[name] = append(times[name], ns)
	}
	names := make([]string, 0, len(times))
	for name := range times {
		names = append(names, name)
	}
	slices.Sort(names)
	r.line("What the look at a new flow's first bytes takes, in memory: the median of %d rounds of %d.", rounds, each)
	r.line("")
	r.line("| first bytes | us |")
	r.line("|---|---|")
	worst := 0.0
	for _, name := range names {
		worst = max(worst, median(times[name]))
		r.line("| %s | %.2f |", name, median(times[name])/1e3)
	}
	r.line("")
	r.target(worst <= most && worst > 0, "content inspection of a new flow, the dearest", fmt.Sprintf("%.1f us", worst/1e3), "at most 20 us")
}
