//go:build linux

// The program bench measures what docs/BENCH.md says: throughput against the
// kernel and against a plain forwarder, memory, set-up time and how well two
// agents are synchronised. Load, sink and all programs share this machine's
// processors, so ratios mean more than absolute figures.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/pairs"
	"rendezvous/internal/natlab/programs"
)

func main() {
	pairs.Main()
	only := flag.String("only", "", "`parts` to run, with commas between: "+strings.Join(names(), ", ")+"; all otherwise")
	runs := flag.Int("runs", 3, "`times` that each throughput is searched for; the median counts")
	out := flag.String("o", "", "keep the report in this `file`")
	flag.Parse()
	os.Exit(netns.Main("bench", func(t netns.T) { run(t, *only, *runs, *out) }))
}

// startLimit is how long a program may take until it is ready.
const startLimit = 5 * time.Second

// part is one thing to measure, with the targets that it has.
type part struct {
	name    string
	measure func(t netns.T, r *report)
}

// parts are in the order of the report; throughput is searched for so many
// times.
func parts(runs int) []part {
	return []part{
		{"throughput", func(t netns.T, r *report) { throughput(t, r, runs) }},
		{"faketcp", func(t netns.T, r *report) { fakeTCP(t, r, runs) }},
		{"long", longLink},
		{"streams", lossyStreams},
		{"tun", func(t netns.T, r *report) { tunModes(t, r, runs) }},
		{"memory", memory},
		{"setup", setUp},
		{"noudp", withoutUDP},
		{"sync", synchronisation},
		{"public", func(t netns.T, r *report) { public(t, r, runs) }},
		{"crowd", crowd},
		{"stripe", striped},
		{"share", shared},
		{"hard", hard},
		{"tcp", func(t netns.T, r *report) { tcpServices(t, r, runs) }},
	}
}

func names() (all []string) {
	for _, p := range parts(0) {
		all = append(all, p.name)
	}
	return all
}

func run(t netns.T, only string, runs int, out string) {
	remove, err := netns.Provide(programs.Packages()...)
	t.Cleanup(remove)
	if err != nil {
		t.Fatalf("%v", err)
	}
	r := &report{}
	r.line("# Figures\n")
	r.line("By `make bench` on %s: %d processors, %s/%s, Linux %s, %s. Load, sink, all programs and the NATs share the processors,",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, netns.Kernel(), runtime.Version())
	r.line("so compare rows of one run, not runs or machines. Programs and NATs are network namespaces of one machine.")
	for _, p := range parts(runs) {
		if only == "" || slices.Contains(strings.Split(only, ","), p.name) {
			r.line("\n## %s\n", p.name)
			netns.Scope(t, func(t netns.T) { p.measure(t, r) })
		}
	}
	if out != "" {
		if err := os.WriteFile(out, r.text.Bytes(), 0o644); err != nil {
			t.Fatalf("keep the report: %v", err)
		}
	}
	if r.missed > 0 {
		t.Fatalf("%d of %d targets are missed", r.missed, r.targets)
	}
}

// report prints Markdown as it comes, and counts targets.
type report struct {
	text            bytes.Buffer
	targets, missed int
}

func (r *report) line(format string, args ...any) {
	fmt.Printf(format+"\n", args...)
	fmt.Fprintf(&r.text, format+"\n", args...)
}

// target prints a figure beside what it should be.
func (r *report) target(met bool, what, figure, want string) {
	r.targets++
	verdict := "met"
	if !met {
		r.missed++
		verdict = "MISSED"
	}
	r.line("- %s: **%s** (target %s: %s)", what, figure, want, verdict)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
