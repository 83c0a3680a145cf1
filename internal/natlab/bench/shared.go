//go:build linux

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"strings"

	"rendezvous/internal/natlab/netns"
)

// mostInspection is what looking at a new flow's first bytes may add, in
// microseconds.
const mostInspection = 20

// shared measures what content inspection adds to a new flow on a shared port.
// The package's own benchmark compares both in turn within one process: what
// separates them is less than the way between two.
func shared(t netns.T, r *report) {
	cmd := exec.Command("go", "test", "-run", "^$", "-bench", "^BenchmarkNew", "-benchtime", "2s", "rendezvous/internal/share")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("run the benchmark of internal/share: %v: %s", err, out)
	}
	r.line("From a new client's first bytes to the backend's first answer, on loopback, median; \"plain\" looks at nothing.")
	r.line("")
	r.line("| first bytes | plain, us | added by inspection, us |")
	r.line("|---|---|---|")
	most, of := 0.0, ""
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		name, plain, added, ok := newFlow(lines.Text())
		if !ok {
			continue
		}
		r.line("| %s | %.0f | %.1f |", name, plain, added)
		if of == "" || added > most {
			most, of = added, name
		}
	}
	if of == "" {
		t.Fatalf("the benchmark of internal/share printed no figure: %s", out)
	}
	r.line("")
	r.target(most <= mostInspection, "content inspection adds to a new flow, median, at most ("+of+")", fmt.Sprintf("%.1f us", most), fmt.Sprintf("%d us", mostInspection))
}

// newFlow reads a line of the benchmark's: a name, the number of runs, then
// figures each before its unit.
func newFlow(line string) (name string, plain, added float64, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "BenchmarkNew") {
		return "", 0, 0, false
	}
	_, name, _ = strings.Cut(fields[0], "/")
	name, _, _ = strings.Cut(name, "-")
	found := 0
	for i := 3; i < len(fields); i += 2 {
		into := map[string]*float64{"plain-us": &plain, "added-us": &added}[fields[i]]
		if into == nil {
			continue
		}
		if _, err := fmt.Sscan(fields[i-1], into); err == nil {
			found++
		}
	}
	return name, plain, added, found == 2
}
