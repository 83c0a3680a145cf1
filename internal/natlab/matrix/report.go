//go:build linux

package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"strings"
	"time"

	"rendezvous/internal/natlab/pairs"
)

// report is docs/MATRIX.md.
type report struct {
	tallies  pairs.Tallies
	kinds    []pairs.Kind
	runs     int
	enough   int
	took     time.Duration
	meetings []*meeting
	b        strings.Builder

	namespacesTook time.Duration
}

func (r *report) line(format string, args ...any) { fmt.Fprintf(&r.b, format+"\n", args...) }

func (r *report) text() string {
	r.line("# The matrix of NATs\n")
	if len(r.tallies) > 0 {
		r.memory()
	}
	if len(r.meetings) > 0 {
		r.namespaces()
	}
	return r.b.String()
}

// memory is what came of the in-memory internet.
func (r *report) memory() {
	r.line("By `make matrix` on %s: whole agents and a coordinator on the in-memory internet (`internal/natlab`) in virtual time, %v round trip between any", time.Now().UTC().Format(time.DateOnly), roundTrip)
	r.line("two hosts, no loss. Each two kinds of NAT met %d times, each side dialing half of them; no two agents share a NAT unless it says so. It took %v", r.runs, r.took.Round(time.Second))
	r.line("on %d processors (%s). A pair counts as direct when both sides' data has moved to a direct path, of whatever kind, within 15 s. Times are from the", runtime.NumCPU(), runtime.Version())
	r.line("dialing side's first datagram; packets are datagrams and TCP segments that one side sent to others than the coordinator until then, its relayed")
	r.line("ones not counted.")
	r.line("At most eight kinds, two agents of each, share a world and its coordinator; between two meetings the NATs forget all but the coordinator.")
	if r.enough > 0 {
		r.line("Two kinds that had no direct path in %d meetings meet no more (with 95 %% certainty fewer than %.0f %% of such pairs would go directly); `make matrix MATRIX=-enough=0`\nhas them all.", r.enough, 100*(1-math.Pow(0.05, 1/float64(r.enough))))
	}
	r.line("")
	r.totals()
	r.speed()
	r.legend()
	r.grid()
	r.below()
	r.same()
	r.all()
}

func (r *report) of(a, b string) *pairs.Tally { return r.tallies.Of(a, b) }

func (r *report) share(a, b string) float64 {
	if t := r.of(a, b); t != nil {
		return t.Share()
	}
	return 0
}

// totals are the weighted ones; with some kinds left out there are none.
func (r *report) totals() {
	weights := pairs.Weights()
	for _, w := range weights {
		if r.of(w.Kind, w.Kind) == nil {
			return
		}
	}
	r.line("## In all\n")
	r.line("Hosts drawn independently by their share, %s.\n", "as listed below")
	r.line("| | direct | target |\n|---|---|---|")
	r.line("| NATs alone | **%.1f %%** | 95.5 %% |", 100*pairs.Total(weights, pairs.Help{}, r.share))
	help := pairs.PublishedHelp()
	r.line("| with IPv6, no port mapping | %.1f %% | |", 100*pairs.Total(weights, pairs.Help{IPv6: help.IPv6}, r.share))
	r.line("| with port mapping, no IPv6 | %.1f %% | |", 100*pairs.Total(weights, pairs.Help{Mapping: help.Mapping}, r.share))
	r.line("| with both in their published shares | **%.1f %%** | 97 %% |", 100*pairs.Total(weights, help, r.share))
	r.line("\nWhat the first row lacks, by what keeps those pairs apart:\n\n| %% of all pairs | |\n|---|---|")
	missing := pairs.Missing(weights, r.share)
	for _, why := range slices.SortedFunc(maps.Keys(missing), func(a, b string) int { return cmp.Compare(missing[b], missing[a]) }) {
		r.line("| %.2f | %s |", 100*missing[why], cmp.Or(why, "nothing by nature"))
	}
	r.line("\n%s\n\n%s\n", pairs.Source, pairs.HelpSource)
	r.line("| share of hosts, %% | kind | |\n|---|---|---|")
	for _, w := range weights {
		r.line("| %.4g | %s | %s |", w.Share, w.Kind, w.Of)
	}
	r.line("")
}

// speed is what the matrix itself can say of the targets; `make bench` says it
// at two round trips.
func (r *report) speed() {
	r.line("## Time to the direct path\n")
	r.line("| pairs | direct | median | the first time | 95 of 100 | packets of a side, 95 of 100 | target |\n|---|---|---|---|---|---|---|")
	for _, g := range pairs.Groups() {
		t := g.Tally(r.tallies)
		if t.Runs > 0 {
			r.line("| %s | %.1f %% | %s | %s | %s | %d | %s |", g.Name, 100*t.Share(), g.Figure(t.Time(.5), roundTrip), g.Figure(t.TimeFirst(), roundTrip), g.Figure(t.Time(.95), roundTrip), t.Packets(.95), g.Target)
		}
	}
	r.line("\nThe first time is the median of agents that had not met before: the dialing one then asks the coordinator for the other's record, which takes a round trip, and keeps it.")
	r.line("")
}

func (r *report) legend() {
	r.line("## Kinds\n")
	r.line("Names are mapping-filtering: *ei* endpoint-independent, *ad* address-dependent, *apd* address-and-port-dependent (RFC 4787).\n")
	r.line("| kind | |\n|---|---|")
	for _, k := range r.kinds {
		r.line("| %s | %s |", k.Name, k.Words)
	}
	r.line("")
	if t := r.of("ei-apd", "apd-apd-random-512"); t != nil {
		r.line("A limit of 512 mappings leaves room for spraying: the limited side opens 256 sockets, and the datagrams of the other take none of its mappings (ei-apd × apd-apd-random-512: %.1f %% direct,", 100*t.Share())
		r.line("95 of 100 within %d ms). A second attempt within a minute finds the mappings of the first still there; what is beyond the limit is dropped, and the chance is the smaller for it.\n", t.Time(.95).Milliseconds())
	}
}

// grid is the share of each two kinds in per cent.
func (r *report) grid() {
	r.line("## Direct, per cent\n")
	head, rule := "| |", "|---|"
	for i := range r.kinds {
		head, rule = head+fmt.Sprintf(" %d |", i+1), rule+"---|"
	}
	r.line("%s\n%s", head, rule)
	for i, a := range r.kinds {
		row := fmt.Sprintf("| %d %s |", i+1, a.Name)
		for j, b := range r.kinds {
			cell := ""
			if t := r.of(a.Name, b.Name); t != nil && j >= i {
				cell = fmt.Sprintf("%.0f", 100*t.Share())
			}
			row += " " + cell + " |"
		}
		r.line("%s", row)
	}
	r.line("")
}

// bound is the share below which a pair needs a reason.
const bound = 0.9

// below lists the pairs below bound, by what is the reason.
func (r *report) below() {
	r.line("## Pairs under 90 %%\n")
	byReason := map[string][]string{}
	for i, a := range r.kinds {
		for _, b := range r.kinds[i:] {
			if t := r.of(a.Name, b.Name); t != nil && t.Share() < bound {
				why := pairs.Why(a, b)
				if why == "" {
					why = "not found out yet; the agents say " + pairs.Usual(t.Reasons)
				}
				byReason[why] = append(byReason[why], fmt.Sprintf("%s × %s (%.0f %%)", a.Name, b.Name, 100*t.Share()))
			}
		}
	}
	reasons := make([]string, 0, len(byReason))
	for why := range byReason {
		reasons = append(reasons, why)
	}
	slices.Sort(reasons)
	for _, why := range reasons {
		r.line("- **%s**: %s", why, strings.Join(byReason[why], ", "))
	}
	r.line("")
}

const columns = "| path | met | direct | median, ms | 95 of 100, ms | packets of a side | 95 of 100 |"

func (r *report) row(name string, t *pairs.Tally) {
	r.line("| %s | %s | %d | %.1f %% | %s | %s | %d | %d |", name, pairs.Usual(t.Paths), t.Runs, 100*t.Share(), millis(t.Time(.5)), millis(t.Time(.95)), t.Packets(.5), t.Packets(.95))
}

// same are the pairs behind one NAT.
func (r *report) same() {
	r.line("## Two behind one NAT\n")
	r.line("| scene %s\n|---|---|---|---|---|---|---|---|", columns)
	for _, s := range pairs.Scenes() {
		if t := r.of(s.Name, s.Name); t != nil {
			r.row(s.Words, t)
		}
	}
	r.line("")
}

func (r *report) all() {
	r.line("## All pairs\n")
	r.line("| pair %s\n|---|---|---|---|---|---|---|---|", columns)
	for i, a := range r.kinds {
		for _, b := range r.kinds[i:] {
			if t := r.of(a.Name, b.Name); t != nil {
				r.row(a.Name+" × "+b.Name, t)
			}
		}
	}
	r.line("")
}
