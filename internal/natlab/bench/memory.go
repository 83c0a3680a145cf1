//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// The targets, resident memory in bytes.
const (
	mega     = 1 << 20
	idleMost = 30 * mega
	fullMost = 120 * mega
	flows    = 10_000
)

// memory looks at the agents idle, and with ten thousand clients at once.
func memory(t netns.T, r *report) {
	n := programs.Start(t, netns.Options{Wire: true}, "echo=udp://127.0.0.1:9000", "home/echo=udp://127.0.0.1:9001")
	programs.Sink(n.Scene.Home, "127.0.0.1:9000")
	idle := max(n.Home.Memory(), n.Laptop.Memory())
	r.target(idle < idleMost, "an idle agent", megabytes(idle), "under "+megabytes(idleMost))

	const hold = 3 * time.Second
	crowd := n.Scene.Laptop.Start("load", "clients", "-to", "127.0.0.1:9001", "-n", fmt.Sprint(flows), "-size", "100",
		"-interval", "300us", "-hold", hold.String())
	var home, laptop int64
	for crowd.Running() {
		home, laptop = max(home, n.Home.Memory()), max(laptop, n.Laptop.Memory())
		time.Sleep(100 * time.Millisecond)
	}
	r.line("- what the clients saw: `%s`", strings.TrimSpace(crowd.Log()))
	r.target(laptop < fullMost, fmt.Sprintf("the dialing agent with %d flows, at most", flows), megabytes(laptop), "under "+megabytes(fullMost))
	r.target(home < fullMost, fmt.Sprintf("the exposing agent with %d flows, at most", flows), megabytes(home), "under "+megabytes(fullMost))
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/mega) }
