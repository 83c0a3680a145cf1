//go:build linux

// The program matrix makes docs/MATRIX.md: agents behind every two kinds of
// NAT meet on the in-memory internet in virtual time, and the real programs
// behind those that nftables can make, in network namespaces.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/pairs"
)

// roundTrip is that of any two hosts of the matrix.
const roundTrip = 40 * time.Millisecond

// options are the flags.
type options struct {
	out, only      string
	runs, enough   int
	members, times int
	aside          int
	real           string
	seed           uint64
}

func main() {
	pairs.Main()
	var o options
	flag.StringVar(&o.out, "o", "", "keep the report in this `file`")
	flag.StringVar(&o.only, "only", "", "the `kinds` to pair, with commas between; all otherwise")
	flag.IntVar(&o.runs, "runs", 200, "`times` that each two kinds meet")
	flag.IntVar(&o.enough, "enough", 20, "two kinds of which so many meetings came to no direct path meet no more; 0: they do")
	flag.IntVar(&o.members, "members", 2, "agents of each kind in each world")
	flag.IntVar(&o.times, "namespaces", 5, "`times` that the real programs meet in namespaces; 0 leaves them out")
	flag.IntVar(&o.aside, "aside", 4, "`pairs` of the real programs that meet at a time")
	flag.StringVar(&o.real, "real", "", "the `pairs` of the real programs, with commas between (\"random × random\"); all otherwise")
	flag.Uint64Var(&o.seed, "seed", 1, "of the in-memory internet")
	flag.Parse()
	os.Exit(netns.Main("matrix", func(t netns.T) { run(t, o) }))
}

func run(t netns.T, o options) {
	r := &report{runs: o.runs, enough: o.enough, kinds: chosen(o.only)}
	plan := pairs.Plan{Runs: o.runs, Enough: o.enough, Members: o.members, RoundTrip: roundTrip, Seed: o.seed}
	for _, k := range r.kinds {
		plan.Kinds = append(plan.Kinds, k.Name)
	}
	for _, s := range pairs.Scenes() {
		plan.Scenes = append(plan.Scenes, s.Name)
	}
	if o.runs > 0 {
		began := time.Now()
		var err error
		if r.tallies, err = pairs.Spread(plan); err != nil {
			t.Fatalf("%v", err)
		}
		r.took = time.Since(began)
	}
	if o.times > 0 {
		began := time.Now()
		r.meetings = namespaces(t, o.real, o.times, o.aside)
		r.namespacesTook = time.Since(began)
	}
	text := r.text()
	fmt.Print(text)
	if o.out != "" {
		if err := os.WriteFile(o.out, []byte(text), 0o644); err != nil {
			t.Fatalf("keep the report: %v", err)
		}
	}
}

// chosen are the kinds of these names, all where there is none.
func chosen(names string) (out []pairs.Kind) {
	for _, k := range pairs.Kinds() {
		if names == "" || strings.Contains(","+names+",", ","+k.Name+",") {
			out = append(out, k)
		}
	}
	return out
}
