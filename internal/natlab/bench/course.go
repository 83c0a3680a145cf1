//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// Shapes of load, by the names that the report gives them.
const (
	single      = "one by one"
	bursts      = "bursts of 16"
	smallSingle = "100 bytes, one by one"
	smallBursts = "100 bytes, bursts of 16"
)

// shapeArgs are the load's.
var shapeArgs = map[string][]string{
	single:      {"-size", "1400"},
	bursts:      {"-size", "1400", "-burst", "16"},
	smallSingle: {"-size", "100"},
	smallBursts: {"-size", "100", "-burst", "16"},
}

// way leads from the laptop to the sink at home.
type way struct {
	name  string
	to    string // where the laptop's load sends to
	parts []onWay
	// kind and agents are those of a way of ours, which is of one kind of path.
	kind   string
	agents [2]*programs.Agent
}

// onWay is a program on the way.
type onWay struct {
	name string
	*netns.Process
}

// pids is a flag of the load's.
func (w way) pids() string {
	var s []string
	for _, p := range w.parts {
		s = append(s, strconv.Itoa(p.PID()))
	}
	return strings.Join(s, ",")
}

// figures are what was found of one way with one shape of load, by run.
type figures struct {
	PPS     []float64            `json:"pps"`
	Mbit    []float64            `json:"mbit_s"`
	CPU     []float64            `json:"cpu_s_per_gb"`
	Each    map[string][]float64 `json:"cpu_s_per_gb_each,omitempty"` // by program
	RSS     map[string]int64     `json:"rss_bytes,omitempty"`         // by program, at most
	Limited bool                 `json:"generator_limited"`           // at least once it was the generator that could do no more
}

// trips are round trips through one way at a low rate, by run, microseconds.
type trips struct {
	P5   []float64 `json:"p5_us"`
	P50  []float64 `json:"p50_us"`
	P99  []float64 `json:"p99_us"`
	P999 []float64 `json:"p999_us"`
}

// course is the scene and what was found on it.
type course struct {
	t      netns.T
	scene  *netns.Scene
	ways   []way
	trial  string                 // length of a search's trials, "" for the load's own
	found  map[[2]string]*figures // by way and shape
	pinged map[string]*trips      // by way
}

func newCourse(t netns.T, s *netns.Scene, ways ...way) *course {
	return &course{t: t, scene: s, ways: ways, found: map[[2]string]*figures{}, pinged: map[string]*trips{}}
}

// search looks for the highest rate that loses less than 0.5 %. From the second
// time on it begins below what was found before.
func (c *course) search(w way, shape string) {
	args := append([]string{"search", "-to", w.to}, shapeArgs[shape]...)
	if c.trial != "" {
		args = append(args, "-for", c.trial)
	}
	if len(w.parts) > 0 {
		args = append(args, "-pids", w.pids())
	}
	f := c.found[[2]string{w.name, shape}]
	if f == nil {
		f = &figures{Each: map[string][]float64{}, RSS: map[string]int64{}}
		c.found[[2]string{w.name, shape}] = f
	} else {
		args = append(args, "-rate", fmt.Sprintf("%.0f", 0.8*median(f.PPS)))
	}
	var rate programs.Rate
	programs.Load(c.t, c.scene.Laptop, &rate, args...)
	f.take(w, rate)
}

func (f *figures) take(w way, rate programs.Rate) {
	f.PPS = append(f.PPS, rate.Rate)
	f.Mbit = append(f.Mbit, rate.Mbit)
	f.CPU = append(f.CPU, rate.CPUPerGB)
	f.Limited = f.Limited || rate.Limited
	used := 0.0
	for _, u := range rate.CPUEach {
		used += u
	}
	each := map[string]float64{}
	for i, p := range w.parts {
		if used > 0 {
			each[p.name] += rate.CPUPerGB * rate.CPUEach[i] / used
		}
		f.RSS[p.name] = max(f.RSS[p.name], rate.RSSEach[i])
	}
	for name, u := range each {
		f.Each[name] = append(f.Each[name], u)
	}
}

// ping measures round trips of 100-byte datagrams at a low rate.
func (c *course) ping(w way) programs.Pings {
	var p programs.Pings
	programs.Load(c.t, c.scene.Laptop, &p, "ping", "-to", w.to, "-size", "100", "-n", "2000", "-interval", "1ms")
	t := c.pinged[w.name]
	if t == nil {
		t = &trips{}
		c.pinged[w.name] = t
	}
	t.P5, t.P50, t.P99, t.P999 = append(t.P5, p.P5), append(t.P50, p.P50), append(t.P99, p.P99), append(t.P999, p.P999)
	return p
}

// each runs f on all ways in turn, so that a noisy minute hurts all alike.
func (c *course) each(runs int, what string, f func(w way)) {
	for n := range runs {
		for _, w := range c.ways {
			fmt.Fprintf(os.Stderr, "run %d of %d: %s, %s\n", n+1, runs, w.name, what)
			f(w)
		}
	}
}

func (c *course) way(name string) way {
	for _, w := range c.ways {
		if w.name == name {
			return w
		}
	}
	c.t.Fatalf("there is no way %s", name)
	return way{}
}

// rate is in thousands a second, with how far the runs were apart.
func (f *figures) rate() string {
	if f == nil {
		return ""
	}
	s := fmt.Sprintf("%.0f", median(f.PPS)/1e3)
	if f.Limited {
		s = ">" + s
	}
	if len(f.PPS) > 1 {
		s += fmt.Sprintf(" ±%.0f %%", 50*(slices.Max(f.PPS)-slices.Min(f.PPS))/median(f.PPS))
	}
	return s
}

// cpu is seconds a gigabyte.
func (f *figures) cpu() float64 {
	if f == nil {
		return 0
	}
	return median(f.CPU)
}

// compare sets two ways side by side. Where the load could do no more on
// either, a ratio below the target decides nothing.
func (c *course) compare(r *report, a, b, shape string, want float64) {
	of, to := c.found[[2]string{a, shape}], c.found[[2]string{b, shape}]
	if of == nil || to == nil {
		return // one was not asked for
	}
	ratio := median(of.PPS) / median(to.PPS)
	what := fmt.Sprintf("%s against %s, %s", a, b, shape)
	figure, target := fmt.Sprintf("%.2f times", ratio), fmt.Sprintf("at least %.2f", want)
	if ratio < want && of.Limited && to.Limited {
		r.line("- %s: **%s** (target %s: not decided, for the load could do no more on either)", what, figure, target)
		return
	}
	r.target(ratio >= want, what, figure, target)
}
