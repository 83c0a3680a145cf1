//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"

	"rendezvous/internal/natlab/netns"
)

// namespaces are the real programs' pairs.
func (r *report) namespaces() {
	r.line("## The real programs\n")
	r.line("Both commands in network namespaces behind nftables (Linux %s), %v round trip between any two hosts that share no NAT, %d meetings of a pair, in %v; the left kind is", netns.Kernel(), roundTrip, r.meetings[0].runs, r.namespacesTook.Round(time.Second))
	r.line("the dialing side's. Times are from the start of the client's program until both agents log the path: the direct one, or where there is none within %v, the first relayed", realPatience)
	r.line("one. Sprayed is the most datagrams that a side sent in one meeting beyond those to the peer's candidates; an attempt may send %d.\n", r.budget())
	r.line("| pair | path | direct | median, ms | 95 of 100, ms | sprayed |\n|---|---|---|---|---|---|")
	for _, x := range r.meetings {
		took := x.took
		if len(took) == 0 {
			took = x.relayed
		}
		r.line("| %s × %s | %s | %d of %d | %s | %s | %d |", x.laptop, x.home, x.path, len(x.took), x.runs, millis(at(took, .5)), millis(at(took, .95)), x.sprayed)
	}
	r.line("")
	for _, x := range r.meetings {
		if x.odds != "" {
			r.line("- %s × %s: `agent explain` says: %s", x.laptop, x.home, x.odds)
		}
		if x.fault != "" {
			r.line("- %s × %s: the lab itself ended it: %s", x.laptop, x.home, x.fault)
		}
	}
	r.line("")
}

// budget is what an attempt may send.
func (r *report) budget() (most int) {
	for _, x := range r.meetings {
		most = max(most, x.budget)
	}
	return most
}

// at is a quantile, 0 of none.
func at(times []time.Duration, q float64) time.Duration {
	if len(times) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(times))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

func millis(d time.Duration) string {
	if d == 0 {
		return "-"
	}
	return fmt.Sprint(d.Milliseconds())
}
