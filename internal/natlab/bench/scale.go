//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
	"rendezvous/internal/natlab/throng/orders"
)

// The coordinator's targets, with as many agents as the last step.
const (
	idleEach     = 35 << 10 // bytes of resident memory
	idlePart     = 0.05     // of one processor
	stormWithin  = 20       // seconds until the last agent is back
	stormRate    = 1000     // registrations a second
	meetRate     = 1000     // introductions a second
	meetFor      = 8        // seconds
	growRate     = 800      // new agents a second
	settle       = 20 * time.Second
	watchIdle    = 15 * time.Second
	scaleSources = "198.18.0.0/16" // addresses of benchmarks (RFC 2544)
	million      = 1_000_000
)

var scaleSteps = []int{1000, 5000, 20_000}

// step is what one number of idle agents costs.
type step struct {
	agents   int
	memory   float64 // bytes each, of all that is resident
	idle     float64 // of one processor
	register float64 // seconds of processor time each
}

// scale has thousands of agents before one coordinator.
func scale(t netns.T, r *report) {
	if _, err := raiseFiles(); err != nil {
		t.Fatalf("%v", err)
	}
	l := netns.New(t)
	at, from := l.Host("server"), l.Host("agents")
	l.Wire(at, netns.WAN, from, netns.WAN)
	at.Address(netns.WAN, "192.0.2.1/24")
	from.Address(netns.WAN, "192.0.2.2/24")
	at.DefaultRoute("192.0.2.2")
	from.IP("route add local " + scaleSources + " dev lo")

	last := scaleSteps[len(scaleSteps)-1]
	state, config := filepath.Join(l.Dir(), "coordinator"), filepath.Join(l.Dir(), "coordinator.yaml")
	if err := os.WriteFile(config, []byte("log: warn\nlimits: {connections: 100000}\n"), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	at.Run("mkdir", "-m", "700", state)
	pin := programs.EnrolThrong(t, at, state, last)
	c := programs.Serve(t, at, state, []string{"192.0.2.1"}, "--config", config)
	g := programs.StartThrong(t, from, l.Dir(), "192.0.2.1:443", pin, scaleSources)

	r.line("One coordinator and its agents by the thousand, each with a key and a control connection of its own (`internal/natlab/throng`: the")
	r.line("real client, in one process that shares the processors). With nobody there the coordinator has %s, its registry of %d members mapped.", megabytes(c.Memory()), last)
	r.line("")
	r.line("| agents | resident memory by their number | idle, of one processor | processor time a registration |")
	r.line("|---|---|---|---|")
	var steps []step
	have := 0
	for _, n := range scaleSteps {
		s := grow(c, g, n, have)
		steps, have = append(steps, s), n
		r.line("| %d | %s | %.2f %% | %.0f us |", n, kilobytes(s.memory), 100*s.idle, 1e6*s.register)
	}
	r.line("")
	full := steps[len(steps)-1]
	r.target(full.memory <= idleEach, fmt.Sprintf("memory of %d idle agents, each", last), kilobytes(full.memory), "at most "+kilobytes(idleEach))
	r.target(full.idle <= idlePart, fmt.Sprintf("processor time with %d idle agents", last), fmt.Sprintf("%.1f %% of one", 100*full.idle), fmt.Sprintf("at most %.0f %%", 100*idlePart))
	meetings(c, g, r)
	storm(t, c, g, r)
	extrapolate(steps, r)
}

// grow adds agents and looks at the coordinator once they are idle.
func grow(c *programs.Coordinator, g *programs.Throng, n, have int) step {
	used := c.CPU()
	var done orders.Grown
	g.Ask(5*time.Minute, orders.PathGrow, orders.Grow{Agents: n, Rate: growRate}, &done)
	s := step{agents: n, register: (c.CPU() - used).Seconds() / float64(n-have)}
	time.Sleep(settle)
	used, began := c.CPU(), time.Now()
	var memory []float64
	for time.Since(began) < watchIdle {
		memory = append(memory, float64(c.Memory())/float64(n))
		time.Sleep(500 * time.Millisecond)
	}
	s.idle, s.memory = (c.CPU()-used).Seconds()/time.Since(began).Seconds(), slices.Max(memory)
	return s
}

// meetings are introductions between agents by chance.
func meetings(c *programs.Coordinator, g *programs.Throng, r *report) {
	used := c.CPU()
	var got orders.Introductions
	g.Ask(time.Minute, orders.PathIntroduce, orders.Introduce{Rate: meetRate, Seconds: meetFor}, &got)
	each := (c.CPU() - used).Seconds() / float64(max(got.Answered, 1))
	rate := float64(got.Answered) / max(got.Seconds, meetFor)
	r.target(rate >= 0.99*meetRate, "introductions a second, question to the peer's answer", fmt.Sprintf("%.0f", rate), fmt.Sprint(meetRate))
	r.line("- %d of %d answered, p50 %.1f ms, p99 %.1f ms; %.0f us of the coordinator's processor time each%s", got.Answered, got.Asked,
		quantile(got.Took, 0.5), quantile(got.Took, 0.99), 1e6*each, failures(g))
}

// storm kills the coordinator under its agents, and waits until all are back.
func storm(t netns.T, c *programs.Coordinator, g *programs.Throng, r *report) {
	all := scaleSteps[len(scaleSteps)-1]
	c.Kill()
	time.Sleep(time.Second)
	failures(g) // those from before
	began := time.Now()
	c.Restart()
	var came orders.Tallied
	for len(came.Came) < all && time.Since(began) < 3*time.Minute {
		time.Sleep(time.Second)
		g.Ask(time.Minute, orders.PathTally, orders.Tally{SinceUnixNano: began.UnixNano()}, &came)
	}
	if len(came.Came) == 0 {
		t.Fatalf("nobody came back within %v", time.Since(began))
	}
	most := came.Came[len(came.Came)-1]
	// The first tenth and the last tell of how agents notice; what is between, of the coordinator.
	first, ninth := quantile(came.Came, 0.1), quantile(came.Came, 0.9)
	rate := 0.8 * float64(len(came.Came)) / max(ninth-first, 1e-3)
	r.target(rate >= stormRate, "registrations a second after kill -9 and a restart, without the first and the last tenth", fmt.Sprintf("%.0f", rate), fmt.Sprint(stormRate))
	r.target(len(came.Came) == all && most <= stormWithin, fmt.Sprintf("%d of %d agents back, the last after", len(came.Came), all), fmt.Sprintf("%.1f s", most), fmt.Sprintf("at most %d s", stormWithin))
	r.line("- half were back after %.1f s; %.0f us of the coordinator's processor time each%s", quantile(came.Came, 0.5),
		1e6*c.CPU().Seconds()/float64(len(came.Came)), failures(g))
}

// extrapolate says what a million agents would take, by what those that came in
// the last step took more.
func extrapolate(steps []step, r *report) {
	before, s := steps[len(steps)-2], steps[len(steps)-1]
	more := float64(s.agents - before.agents)
	memory := (s.memory*float64(s.agents) - before.memory*float64(before.agents)) / more
	idle := (s.idle - before.idle) / more
	r.line("- each agent from %d to %d: %s, %.1f us a second when idle; a million by that: %.1f GB, %.1f processors when idle, %.0f s of processor time for all to register",
		before.agents, s.agents, kilobytes(memory), 1e6*idle, memory*million/1e9, idle*million, s.register*million)
}

// failures are the agents' own since the last question, commonest first.
func failures(g *programs.Throng) string {
	var now orders.Tallied
	g.Ask(time.Minute, orders.PathTally, orders.Tally{SinceUnixNano: time.Now().UnixNano()}, &now)
	var all []string
	for why, n := range now.Failures {
		all = append(all, fmt.Sprintf("%d times %s", n, why))
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	return "; agents met: " + strings.Join(all[:min(len(all), 5)], ", ")
}

// quantile is of values in order.
func quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	return v[min(int(q*float64(len(v))), len(v)-1)]
}
