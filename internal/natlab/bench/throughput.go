//go:build linux

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// The ways that are compared, by the names that the report gives them.
const (
	kernelWay = "kernel alone, port forwarded"
	plainWay  = "plain forwarder pair"
	sealedWay = "direct-udp sealed"
	rawWay    = "direct-udp raw"
	single    = "one by one"
	bursts    = "bursts of 16"
)

// way leads from the laptop to the sink at home.
type way struct {
	name string
	to   string // where the laptop's load sends to
	pids string // of the programs on the way
}

// figures are what was found of one way with one shape of load.
type figures struct {
	pps, mbit, cpu []float64
	limited        bool // at least once it was the generator that could do no more
}

// course is the scene and what was found on it.
type course struct {
	t     netns.T
	scene *netns.Scene
	ways  []way
	found map[[2]string]*figures // by way and shape
}

// throughput searches for the highest rate of 1400-byte datagrams that loses
// less than 0.5 %, on each way in turn, so that a noisy minute hurts all alike.
func throughput(t netns.T, r *report, runs int) {
	c := newCourse(t)
	for n := range runs {
		for _, shape := range []string{single, bursts} {
			for _, w := range c.ways {
				fmt.Fprintf(os.Stderr, "run %d of %d: %s, %s\n", n+1, runs, w.name, shape)
				c.search(w, shape)
			}
		}
	}
	c.table(r)
	r.line("")
	c.compare(r, sealedWay, plainWay, bursts, 3)
	c.compare(r, sealedWay, plainWay, single, 1.5)
	c.compare(r, rawWay, sealedWay, bursts, 1)
	c.compare(r, rawWay, sealedWay, single, 1)
}

// newCourse puts everything into one scene: two NATs that forward a port for
// the kernel's own way, the baseline, and two agents.
func newCourse(t netns.T) *course {
	n := programs.Start(t, netns.Options{
		Wire:       true,
		CarrierNAT: netns.Masquerade().Publish("udp", 9000, netns.HomeWAN+":9000"),
		HomeNAT:    netns.Masquerade().Publish("udp", 9000, netns.HomeAddr+":9000"),
	}, "sealed=udp://127.0.0.1:9000", "home/sealed=udp://127.0.0.1:9002")
	n.Scene.Home.Start("load", "sink", "-listen", "0.0.0.0:9000").WaitLog("sink listens", time.Second)
	near, far := programs.PlainPair(n.Scene, "127.0.0.1:9001", "127.0.0.1:9000")
	n.Home.Do("expose", "raw=udp://127.0.0.1:9000?raw")
	n.Laptop.Do("dial", "home/raw=udp://127.0.0.1:9003")

	agents := pids(n.Home.Process, n.Laptop.Process)
	c := &course{t: t, scene: n.Scene, found: map[[2]string]*figures{}, ways: []way{
		{kernelWay, netns.HomePublic + ":9000", ""},
		{plainWay, "127.0.0.1:9001", pids(near, far)},
		{sealedWay, "127.0.0.1:9002", agents},
		{rawWay, "127.0.0.1:9003", agents},
	}}
	for _, w := range c.ways { // the first datagrams make paths
		c.ping(w)
	}
	n.Laptop.WaitPath("home", "direct-udp", 10*time.Second)
	return c
}

func pids(all ...*netns.Process) string {
	var s []string
	for _, p := range all {
		s = append(s, strconv.Itoa(p.PID()))
	}
	return strings.Join(s, ",")
}

func (c *course) search(w way, shape string) {
	args := []string{"search", "-to", w.to, "-size", "1400"}
	if shape == bursts {
		args = append(args, "-burst", "16")
	}
	if w.pids != "" {
		args = append(args, "-pids", w.pids)
	}
	var rate programs.Rate
	programs.Load(c.t, c.scene.Laptop, &rate, args...)
	key := [2]string{w.name, shape}
	if c.found[key] == nil {
		c.found[key] = &figures{}
	}
	f := c.found[key]
	f.pps = append(f.pps, rate.Rate)
	f.mbit = append(f.mbit, rate.Mbit)
	f.cpu = append(f.cpu, rate.CPUPerGB)
	f.limited = f.limited || rate.Limited
}

func (c *course) ping(w way) programs.Pings {
	var p programs.Pings
	programs.Load(c.t, c.scene.Laptop, &p, "ping", "-to", w.to, "-size", "100", "-n", "1000")
	return p
}

func (c *course) table(r *report) {
	r.line("1400-byte datagrams, loss under 0.5 %%, median; \">\" where the load could do no more. CPU is that of both ends, with bursts.")
	r.line("")
	r.line("| way | k/s, %s | Mbit/s | k/s, %s | Mbit/s | CPU s per GB | round trip p50/p99, us |", single, bursts)
	r.line("|---|---|---|---|---|---|---|")
	for _, w := range c.ways {
		one, many, p := c.found[[2]string{w.name, single}], c.found[[2]string{w.name, bursts}], c.ping(w)
		r.line("| %s | %s | %.0f | %s | %.0f | %.2f | %.0f/%.0f |", w.name,
			one.rate(), median(one.mbit), many.rate(), median(many.mbit), median(many.cpu), p.P50, p.P99)
	}
}

func (f *figures) rate() string {
	s := fmt.Sprintf("%.0f", median(f.pps)/1e3)
	if f.limited {
		s = ">" + s
	}
	return s
}

// compare sets two ways side by side. Where the load could do no more on
// either, a ratio below the target decides nothing.
func (c *course) compare(r *report, a, b, shape string, want float64) {
	of, to := c.found[[2]string{a, shape}], c.found[[2]string{b, shape}]
	ratio := median(of.pps) / median(to.pps)
	what := fmt.Sprintf("%s against %s, %s", a, b, shape)
	figure, target := fmt.Sprintf("%.2f times", ratio), fmt.Sprintf("at least %.1f", want)
	if ratio < want && of.limited && to.limited {
		r.line("- %s: **%s** (target %s: not decided, for the load could do no more on either)", what, figure, target)
		return
	}
	r.target(ratio >= want, what, figure, target)
}
