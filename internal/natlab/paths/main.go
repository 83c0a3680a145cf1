//go:build linux

// The program paths makes docs/PATHS.md: in one situation after the other it
// starts the real programs in network namespaces, lets WireGuard go over them,
// and writes down which path was taken and how long that took.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

func main() {
	only := flag.String("only", "", "run the situations whose `name` contains this")
	out := flag.String("o", "", "keep the report in this `file`")
	load := flag.Duration("load", 3*time.Second, "how long a TCP connection goes through WireGuard in each")
	flag.Parse()
	os.Exit(netns.Main("paths", func(t netns.T) { run(t, *only, *out, *load) }))
}

const introduction = `# Paths

By ` + "`make paths`" + ` on %s: the real programs in network namespaces of one machine (%s), 20 ms one way between any two of
home, laptop and coordinator unless the situation says otherwise. Home stands behind its router and a carrier's NAT, or its router alone
where it is about NATs that answer or drop the early SYN; all of them drop what connection tracking calls INVALID. WireGuard (wireguard-go)
goes over the agents by a raw service.

- *path* is what ` + "`agent status --json`" + ` says of each side: a relayed path is named by its own side's leg.
- *first answer* is the time from the first datagram of WireGuard's client to the first answer to a ping through it, WireGuard's handshake included.
- *best path* is the time from the same datagram until both sides were on the path of the table.
- *TCP* is iperf3 through WireGuard, for %v.
- *RST* is how many RST segments the kernels of home, laptop and coordinator have sent: of TLS and STUN connections closed early, none in a flow of fake TCP.

| situation | path, home | path, laptop | first answer, ms | best path, ms | WireGuard | TCP, Mbit/s | RST |
|---|---|---|---|---|---|---|---|
`

func run(t netns.T, only, out string, load time.Duration) {
	remove, err := netns.Provide(programs.Packages()...)
	t.Cleanup(remove)
	if err != nil {
		t.Fatalf("%v", err)
	}
	var report bytes.Buffer
	say := func(format string, args ...any) {
		fmt.Printf(format, args...)
		fmt.Fprintf(&report, format, args...)
	}
	say(introduction, time.Now().UTC().Format(time.DateOnly), "Linux "+netns.Kernel(), load)
	var broken, elsewhere []string
	for _, x := range programs.Situations() {
		if !strings.Contains(x.Name, only) {
			continue
		}
		row, works, arrived := travel(t, x, load)
		say("%s\n", row)
		if !works {
			broken = append(broken, x.Name)
		} else if arrived != nil {
			elsewhere = append(elsewhere, fmt.Sprintf("%s: %v", x.Name, arrived))
		}
	}
	if out != "" {
		if err := os.WriteFile(out, report.Bytes(), 0o644); err != nil {
			t.Fatalf("keep the report: %v", err)
		}
	}
	for _, e := range elsewhere {
		t.Logf("not the path that was expected: %s", e)
	}
	if len(broken) > 0 {
		t.Fatalf("WireGuard does not work where: %s", strings.Join(broken, "; "))
	}
}

// travel makes the row of a situation, in a lab of its own. One that fails does
// not end the others.
func travel(t netns.T, x programs.Situation, load time.Duration) (row string, works bool, arrived error) {
	row = fmt.Sprintf("| %s | - | - | - | - | **no** | - | - |", x.Name)
	attempt(t, func(t netns.T) {
		_, j := x.Travel(t, load)
		works, arrived = true, x.Arrived(j)
		best := "-"
		if j.Best > 0 {
			best = fmt.Sprint(j.Best.Milliseconds())
		}
		row = fmt.Sprintf("| %s | %s | %s | %d | %s | works | %.0f | %d |", x.Name, j.Home, j.Laptop, j.FirstAnswer.Milliseconds(), best, j.Mbit, j.Resets)
	})
	return row, works, arrived
}

// attempt runs body as a test of its own, whose failure is told and no more.
func attempt(t netns.T, body func(t netns.T)) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		netns.Scope(t, func(inner netns.T) { body(&attempted{T: inner}) })
	}()
	<-done
}
