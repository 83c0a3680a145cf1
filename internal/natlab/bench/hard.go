//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/pairs"
)

// hardRuns is how often each pair of a group meets at each round trip: enough
// to tell 98 % from 95 % over a group.
const hardRuns = 8

// hard measures how soon agents behind NATs have a direct path, on the
// in-memory internet in virtual time, where the machine's speed plays no part.
func hard(t netns.T, r *report) {
	r.line("Whole agents on the in-memory internet, in virtual time; which kinds of NAT these are is in MATRIX.md.\n")
	for _, roundTrip := range []time.Duration{40 * time.Millisecond, 200 * time.Millisecond} {
		tallies, err := meetHard(roundTrip)
		if err != nil {
			t.Fatalf("%v", err)
		}
		for _, g := range pairs.Groups() {
			got := g.Tally(tallies)
			r.target(g.Met(got, roundTrip), fmt.Sprintf("%s, %v round trip", g.Name, roundTrip),
				fmt.Sprintf("%.1f %% direct, %.1f %% within 12 s, median %s, 95 of 100 %s, at most %d packets of a side", 100*got.Share(), 100*got.Within(12*time.Second),
					g.Figure(got.Time(.5), roundTrip), g.Figure(got.Time(.95), roundTrip), got.Packets(1)), g.Target)
		}
	}
}

// meetHard lets all pairs of all groups meet.
func meetHard(roundTrip time.Duration) (pairs.Tallies, error) {
	plan := pairs.Plan{Runs: hardRuns, Members: 2, RoundTrip: roundTrip, Seed: 1}
	kinds := pairs.Kinds()
	for i, a := range kinds {
		plan.Kinds = append(plan.Kinds, a.Name)
		for _, b := range kinds[i:] {
			if slices.ContainsFunc(pairs.Groups(), func(g pairs.Group) bool { return g.Has(a, b) }) {
				plan.Only = append(plan.Only, [2]string{a.Name, b.Name})
			}
		}
	}
	return pairs.Spread(plan)
}
