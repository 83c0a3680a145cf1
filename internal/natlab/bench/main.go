//go:build linux

// The program bench measures what docs/BENCH.md says: throughput against the
// kernel and against a plain forwarder, memory, set-up time and how well two
// agents are synchronised. Load, sink and all programs share this machine's
// processors, so ratios mean more than absolute figures.
package main

import (
	"flag"
	"os"
	"slices"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/pairs"
	"rendezvous/internal/natlab/programs"
)

func main() {
	pairs.Main()
	var o options
	only := flag.String("only", "", "`parts` to run, with commas between: "+strings.Join(names(), ", ")+"; all otherwise")
	flag.IntVar(&o.runs, "runs", 3, "`times` that each throughput is searched for; the median counts")
	out := flag.String("o", "", "keep the report in this `file`, and its figures beside it with .json")
	flag.StringVar(&o.ways, "ways", "", "of the table, these `ways` alone, with semicolons between")
	flag.StringVar(&o.shapes, "shapes", "", "of the table, these `shapes` of load alone, with semicolons between")
	flag.Parse()
	os.Exit(netns.Main("bench", func(t netns.T) { run(t, parts(o), *only, *out) }))
}

// options are of parts that search for throughput.
type options struct {
	runs         int
	ways, shapes string // of the table; empty: all
}

func (o options) wants(way string) bool { return listed(o.ways, way) }

func listed(list, name string) bool {
	return list == "" || slices.Contains(strings.Split(list, ";"), name)
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
func parts(o options) []part {
	runs := o.runs
	return []part{
		{"fastpath", func(t netns.T, r *report) { fastPath(t, r, runs) }},
		{"faketcp", fakeTCP},
		{"long", longLink},
		{"streams", lossyStreams},
		{"tun", func(t netns.T, r *report) { tunModes(t, r, runs) }},
		{"memory", memory},
		{"setup", setUp},
		{"noudp", withoutUDP},
		{"sync", synchronisation},
		{"public", func(t netns.T, r *report) { public(t, r, runs) }},
		{"crowd", crowd},
		{"scale", scale},
		{"stripe", striped},
		{"share", shared},
		{"hard", hard},
		{"tcp", func(t netns.T, r *report) { tcpServices(t, r, runs) }},
		{"start", starting},
		{"overload", func(t netns.T, r *report) { overload(t, r, o) }},
		{"throughput", func(t netns.T, r *report) { throughput(t, r, o) }},
	}
}

func names() (all []string) {
	for _, p := range parts(options{}) {
		all = append(all, p.name)
	}
	return all
}

func run(t netns.T, all []part, only, out string) {
	remove, err := netns.Provide(programs.Packages()...)
	t.Cleanup(remove)
	if err != nil {
		t.Fatalf("%v", err)
	}
	r := newReport()
	for _, p := range all {
		if only == "" || slices.Contains(strings.Split(only, ","), p.name) {
			r.line("\n## %s\n", p.name)
			netns.Scope(t, func(t netns.T) { p.measure(t, r) })
		}
	}
	if out != "" {
		if err := r.write(out); err != nil {
			t.Fatalf("keep the report: %v", err)
		}
	}
	if r.missed > 0 {
		t.Fatalf("%d of %d targets are missed", r.missed, r.targets)
	}
}
