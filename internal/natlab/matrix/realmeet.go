//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// meeting is what came of one pair of the real programs.
type meeting struct {
	realPair
	path    string // in the end
	runs    int
	took    []time.Duration // to the direct path
	relayed []time.Duration // to the first path of all, of those that had no direct one
	sprayed uint64          // most datagrams of a side that a punch sent beyond the candidates
	budget  int             // of an attempt, in such datagrams
	odds    string          // what `agent explain` says of them
	fault   string          // why there are no more runs
}

const (
	realPatience = 12 * time.Second
	exposeEcho   = "echo=udp://127.0.0.1:9000"
	dialEcho     = "home/echo=udp://127.0.0.1:9001"
	dialAddr     = "127.0.0.1:9001"
	idle         = time.Second // agents that have just registered become idle ones
	glance       = 2 * time.Millisecond
)

// namespaces has the programs meet behind every two kinds, several pairs at a
// time: most of it is waiting.
func namespaces(t netns.T, only string, times, aside int) (all []*meeting) {
	remove, err := netns.Provide(programs.Packages()...)
	t.Cleanup(remove)
	if err != nil {
		t.Fatalf("%v", err)
	}
	for _, p := range realPairs() {
		if name := p.laptop + " × " + p.home; only == "" || strings.Contains(","+only+",", ","+name+",") {
			all = append(all, &meeting{realPair: p, path: "-"})
		}
	}
	next := make(chan *meeting)
	var wait sync.WaitGroup
	for range aside {
		wait.Go(func() {
			for x := range next {
				x.tryTwice(t, times)
			}
		})
	}
	for i := range all {
		next <- all[len(all)-1-i] // those that take long stand last
	}
	close(next)
	wait.Wait()
	return all
}

// tryTwice is meet, and again where the lab itself was at fault.
func (x *meeting) tryTwice(t netns.T, times int) {
	for range 2 {
		*x = meeting{realPair: x.realPair, path: "-"}
		done := make(chan struct{})
		go func() {
			defer close(done)
			netns.Scope(t, func(inner netns.T) {
				a := &attempted{T: inner}
				defer func() { x.fault = a.why }()
				x.meet(a, times)
			})
		}()
		<-done
		if x.fault == "" {
			break
		}
	}
	t.Logf("%s × %s: %d of %d direct, %s %s", x.laptop, x.home, len(x.took), x.runs, x.path, x.fault)
}

// meet starts both agents anew so many times.
func (x *meeting) meet(t netns.T, times int) {
	n := x.situation.Start(t, exposeEcho, dialEcho)
	programs.Sink(n.Scene.Home, "127.0.0.1:9000")
	for i := range times {
		if i > 0 {
			anew(n)
		}
		time.Sleep(idle)
		load := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", dialAddr, "-size", "100", "-n", "10000", "-interval", "10ms")
		began := time.Now()
		first := time.Duration(0)
		for !x.direct(n) && time.Since(began) < realPatience {
			if first == 0 && x.path != "-" {
				first = time.Since(began)
			}
			time.Sleep(glance)
		}
		x.runs++
		if x.direct(n) {
			x.took = append(x.took, time.Since(began))
		} else {
			x.relayed = append(x.relayed, first)
			x.explained(n)
		}
		x.spent(n)
		load.Kill()
	}
}

// direct says whether both sides' data goes directly, and notes the path.
func (x *meeting) direct(n *programs.Network) bool {
	here, there := taken(n.Laptop.Log()), taken(n.Home.Log())
	if here == "" || there == "" {
		x.path = "-"
		return false
	}
	x.path = here
	return strings.HasPrefix(here, "direct") && strings.HasPrefix(there, "direct")
}

// taken is the path that data takes by an agent's log, which costs nobody the
// time that asking the agent would.
func taken(log string) string {
	at := strings.LastIndex(log, `"data takes this path"`)
	if at < 0 {
		return ""
	}
	line := log[strings.LastIndexByte(log[:at], '\n')+1:]
	line, _, _ = strings.Cut(line, "\n")
	var said struct{ Path string }
	_ = json.Unmarshal([]byte(line), &said) // a line half written is read again
	return said.Path
}

// spent notes what spraying took.
func (x *meeting) spent(n *programs.Network) {
	for _, a := range []*programs.Agent{n.Laptop, n.Home} {
		if p := a.Status().Punch; p.PerAttempt > 0 {
			x.sprayed, x.budget = max(x.sprayed, p.Sent), p.PerAttempt
		}
	}
}

// explained notes the odds that `agent explain` gives.
func (x *meeting) explained(n *programs.Network) {
	for _, a := range n.Laptop.Explain("home") {
		if _, odds, told := strings.Cut(a.Evidence, "; "); told && a.Result == "failed" && strings.Contains(odds, "chance") {
			x.odds = odds
		}
	}
}

// anew starts both agents again, behind routers that remember nothing.
func anew(n *programs.Network) {
	n.Laptop.Stop()
	n.Home.Stop()
	for _, router := range []*netns.Host{n.HomeRouter, n.Carrier, n.LaptopRouter} {
		if router != nil {
			router.FlushConntrack()
		}
	}
	n.Home.Up("--expose", exposeEcho)
	n.Laptop.Up("--dial", dialEcho)
}

// attempted is a T whose failure ends the goroutine and nothing else.
type attempted struct {
	netns.T
	failed atomic.Bool
	why    string
}

// Fatalf tells what happened and ends the attempt.
func (a *attempted) Fatalf(format string, args ...any) {
	a.failed.Store(true)
	a.Logf(format, args...)
	a.why, _, _ = strings.Cut(fmt.Sprintf(format, args...), "\n")
	runtime.Goexit()
}

// Failed is what the lab asks before it throws logs away.
func (a *attempted) Failed() bool { return a.failed.Load() }
