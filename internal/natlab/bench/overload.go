//go:build linux

package main

import (
	"fmt"
	"os"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// What an overload may do.
const (
	overloadGrowth  = 4 * mega // after its first second
	overloadDelay   = 5 * time.Millisecond
	overloadRecover = time.Second
)

// overload offers each path far more than it carries, for a while: what passes
// is not late, memory does not grow, no path is given up, and a second later all
// is as before.
func overload(t netns.T, r *report, o options) {
	c := everyPath(t, options{ways: "direct-udp sealed;direct-faketcp sealed;direct-tcp sealed;relay-udp sealed;relay-faketcp sealed;relay-tls sealed"})
	r.line("As fast as one load can send in bursts of 16 for 10 s (30 s on direct-udp and relay-udp), 1400 bytes: what a path makes of much more than")
	r.line("it carries. The delay is one way, of what arrived; the round trips are those of the second that begins one second after the end.")
	r.line("")
	r.line("| path | offered, k/s | arrived, k/s | delay p50/p99, ms | memory, in the first second and at most | paths during | round trip p50 before/after, us | lost after |")
	r.line("|---|---|---|---|---|---|---|---|")
	var all []flooding
	for _, w := range c.ways {
		if len(w.parts) == 0 || w.agents == [2]*programs.Agent{} || !o.wants(w.name) {
			continue
		}
		long := 10 * time.Second
		if w.name == sealedWay || w.name == relayWay {
			long = 30 * time.Second
		}
		fmt.Fprintf(os.Stderr, "overload: %s\n", w.name)
		f := c.flood(w, long)
		all = append(all, f)
		r.line("| %s | %.0f | %.0f | %.1f/%.1f | %s, %s | %s | %.0f/%.0f | %d |", w.name, f.rate.Rate/1e3, f.rate.Received/1e3, f.rate.Delay50/1e3, f.rate.Delay99/1e3,
			megabytes(f.early), megabytes(f.most), f.seen(), f.calm.P50, f.after.P50, f.after.Sent-f.after.Answered)
	}
	r.line("")
	for _, f := range all {
		f.judge(r)
	}
}

// flooding is what came of one overload.
type flooding struct {
	name        string
	kind        string
	rate        programs.Rate
	early, most int64 // bytes, of all programs on the way: in the first second, and later
	kinds       map[string]bool
	calm, after programs.Pings
}

func (c *course) flood(w way, long time.Duration) flooding {
	f := flooding{name: w.name, kind: w.kind, kinds: map[string]bool{}, calm: c.ping(w)}
	load := programs.StartLoad(c.t, c.scene.Laptop, "rate", "-to", w.to, "-rate", "0", "-burst", "16", "-size", "1400", "-for", long.String())
	for began := time.Now(); load.Running(); time.Sleep(200 * time.Millisecond) {
		f.most = max(f.most, w.memory())
		if time.Since(began) < time.Second {
			f.early = f.most
		}
		for i, a := range w.agents {
			p, err := a.Peer(w.agents[1-i].Name)
			if err == nil {
				f.kinds[p.Path] = true
			}
		}
	}
	load.Result(&f.rate, 5*time.Second)
	time.Sleep(overloadRecover)
	programs.Load(c.t, c.scene.Laptop, &f.after, "ping", "-to", w.to, "-size", "100", "-n", "500", "-interval", "2ms")
	return f
}

func (w way) memory() (sum int64) {
	for _, p := range w.parts {
		sum += p.Memory()
	}
	return sum
}

func (f flooding) seen() (list string) {
	for kind := range f.kinds {
		list += kind + " "
	}
	return list
}

func (f flooding) judge(r *report) {
	r.target(f.rate.Delay50 <= float64(overloadDelay.Microseconds()), f.name+", overloaded: delay of what passes, p50", fmt.Sprintf("%.1f ms", f.rate.Delay50/1e3), "at most 5 ms")
	r.target(f.most-f.early <= overloadGrowth, f.name+", overloaded: memory grows after the first second by", megabytes(f.most-f.early), "at most "+megabytes(overloadGrowth))
	r.target(len(f.kinds) == 1 && f.kinds[f.kind], f.name+", overloaded: paths that data took", f.seen(), f.kind+" alone")
	r.target(f.after.Answered == f.after.Sent && f.after.P50 < 2*f.calm.P50, f.name+", a second after: round trip p50, and lost",
		fmt.Sprintf("%.0f us, %d of %d", f.after.P50, f.after.Sent-f.after.Answered, f.after.Sent), fmt.Sprintf("below %.0f us, 0", 2*f.calm.P50))
}
