//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// The targets of starting, and of being idle.
const (
	readyWithin = 50 * time.Millisecond
	sizeMost    = 20_000_000 // bytes, stripped
	idleWakes   = 2.0        // a second
	starts      = 10
	// controlSocket is what status is asked at, in the state folder.
	controlSocket = "control.sock"
)

// starting is how soon both programs answer, how large they are, and how often an
// idle agent wakes up.
func starting(t netns.T, r *report) {
	n := programs.Start(t, netns.DefaultOptions(), "echo=udp://127.0.0.1:9000", "home/echo=udp://127.0.0.1:9001")
	time.Sleep(10 * time.Second) // until what it looks for at first is found
	const long = 20 * time.Second
	before := wakes(t, n.Laptop.PID())
	time.Sleep(long)
	rate := float64(wakes(t, n.Laptop.PID())-before) / long.Seconds()
	r.target(rate < idleWakes, "an idle agent wakes", fmt.Sprintf("%.1f times a second", rate), fmt.Sprintf("fewer than %.0f", idleWakes))

	state := filepath.Join(n.Dir(), "agent-laptop")
	n.Laptop.Stop()
	n.Scene.Laptop.LinkDown(netns.ETH)
	var took []float64
	for range starts {
		began := time.Now()
		n.Laptop.Start()
		answers(t, state)
		took = append(took, float64(time.Since(began).Microseconds())/1e3)
		n.Laptop.Stop()
	}
	r.target(median(took) < float64(readyWithin.Milliseconds()), fmt.Sprintf("an agent without a network answers, median of %d starts", starts),
		fmt.Sprintf("after %.0f ms", median(took)), "under 50 ms")

	state = filepath.Join(n.Dir(), "coordinator")
	took = nil
	for range starts {
		n.Coordinator.Stop()
		began := time.Now()
		n.Coordinator.Begin()
		answers(t, state)
		took = append(took, float64(time.Since(began).Microseconds())/1e3)
	}
	r.target(median(took) < float64(readyWithin.Milliseconds()), fmt.Sprintf("the coordinator answers, median of %d starts", starts),
		fmt.Sprintf("after %.0f ms", median(took)), "under 50 ms")
	for _, name := range []string{"agent", "rendezvous"} {
		size := stripped(t, name)
		r.target(size < sizeMost, name+", stripped", fmt.Sprintf("%.1f MB", float64(size)/1e6), "under 20 MB")
	}
}

// wakes is how often the threads of a process have waited for something so far.
func wakes(t netns.T, pid int) (sum int) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("process %d has no threads to look at: %v", pid, err)
	}
	for _, file := range threads {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // the thread has ended
		}
		_, after, _ := strings.Cut(string(text), "\nvoluntary_ctxt_switches:")
		var n int
		if _, err := fmt.Sscan(after, &n); err != nil {
			t.Fatalf("read how often a thread of process %d has waited: %v", pid, err)
		}
		sum += n
	}
	return sum
}

// answers waits until somebody answers on the control socket in a state folder.
func answers(t netns.T, state string) {
	for began := time.Now(); ; time.Sleep(500 * time.Microsecond) {
		conn, err := net.Dial("unix", filepath.Join(state, controlSocket))
		if err == nil {
			_ = conn.Close() // it was open: that is all
			return
		}
		if time.Since(began) > startLimit {
			t.Fatalf("nobody answers in %s: %v", state, err)
		}
	}
}

// stripped is how large a program is as packages ship it, in bytes.
func stripped(t netns.T, name string) int64 {
	file := filepath.Join(os.TempDir(), fmt.Sprintf("bench-%s-%d", name, os.Getpid()))
	defer func() { _ = os.Remove(file) }()
	out, err := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", file, "rendezvous/cmd/"+name).CombinedOutput()
	if err != nil {
		t.Fatalf("build %s: %v: %s", name, err, out)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return info.Size()
}
