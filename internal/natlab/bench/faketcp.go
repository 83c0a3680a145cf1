//go:build linux

package main

import (
	"fmt"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// fakeTCP looks at what NATs make of a path of fake TCP.
func fakeTCP(t netns.T, r *report) {
	c, n := pairedCourse(t, netns.Options{Wire: true, CarrierNAT: netns.Masquerade()}, "direct-faketcp")
	neverInvalid(c, n, r)
}

// neverInvalid sends for 30 s as fast as it goes through NATs that drop what
// connection tracking calls INVALID.
func neverInvalid(c *course, n *programs.Network, r *report) {
	const long = "30s"
	w := c.way("direct-faketcp")
	var full programs.Rate
	programs.Load(c.t, c.scene.Laptop, &full, "rate", "-to", w.to, "-rate", "0", "-burst", "16", "-for", long)
	dropped := invalid(n)
	r.target(dropped == 0, fmt.Sprintf("segments dropped as INVALID by three NATs in %s of direct-faketcp as fast as it goes (%.0f Mbit/s)", long, full.Mbit),
		fmt.Sprint(dropped), "0")
}

// invalid is how many segments the NATs have dropped so far.
func invalid(n *programs.Network) (sum uint64) {
	for _, router := range []*netns.Host{n.HomeRouter, n.Carrier, n.LaptopRouter} {
		sum += router.Counter("invalid").Packets
	}
	return sum
}

// pairedCourse starts a scene with a pair of agents for each kind of path, all
// leading to one sink.
func pairedCourse(t netns.T, o netns.Options, kinds ...string) (*course, *programs.Network) {
	n := programs.Situation{Options: o}.Open(t)
	programs.Sink(n.Scene.Home, "127.0.0.1:9000")
	c := newCourse(t, n.Scene)
	for i, kind := range kinds {
		to := fmt.Sprintf("127.0.0.1:%d", 9001+i)
		home, laptop := n.Pair(t, kind, "echo=udp://127.0.0.1:9000", "udp://"+to)
		w := way{name: kind, to: to, parts: []onWay{{"home", home.Process}, {"laptop", laptop.Process}}}
		c.ways = append(c.ways, w)
		c.reach(w)
		laptop.WaitPath(home.Name, kind, 20*time.Second)
		home.WaitPath(laptop.Name, kind, 20*time.Second)
	}
	return c, n
}

// longLink looks at a path of fake TCP over a link as satellites have: what
// arrives is not late because something else was lost.
func longLink(t netns.T, r *report) {
	const oneWay, most = 350 * time.Millisecond, 10 * time.Millisecond
	c, n := pairedCourse(t, netns.Options{VPSHome: oneWay, VPSLaptop: oneWay, HomeLaptop: oneWay, Loss: 0.05}, "direct-faketcp")
	home, laptop := n.Pairs[0][0], n.Pairs[0][1]
	before := max(home.Memory(), laptop.Memory())
	stream := programs.StartLoad(t, c.scene.Laptop, "ping", "-to", c.ways[0].to, "-size", "1400", "-n", "15000", "-interval", "1ms")
	var early, late int64
	for begin := time.Now(); stream.Running(); time.Sleep(100 * time.Millisecond) {
		now := max(home.Memory(), laptop.Memory())
		if time.Since(begin) < 5*time.Second {
			early = max(early, now)
		}
		late = max(late, now)
	}
	var p programs.Pings
	stream.Result(&p, time.Second)
	link := float64((2 * oneWay).Microseconds())
	r.line("A path of fake TCP over a link of 700 ms round trip that loses 5 %% each way; 1400 bytes each millisecond for 15 s, and back.")
	r.line("")
	r.line("- answered: %d of %d", p.Answered, p.Sent)
	r.target(p.P99-link <= float64(most.Microseconds()), "round trip of what arrived, p99 above the link's",
		fmt.Sprintf("%.1f ms", (p.P99-link)/1e3), "at most 10 ms")
	r.target(late-early <= 4*mega, "memory of an agent in the last 10 s, above that of the first 5 s",
		megabytes(late-early), "at most "+megabytes(4*mega))
	r.line("- memory of the larger agent: %s before, %s at most", megabytes(before), megabytes(late))
}

// lossyStreams sets kernel TCP, which waits for what was lost, beside fake TCP.
func lossyStreams(t netns.T, r *report) {
	o := netns.DefaultOptions()
	o.Loss = 0.01
	c, _ := pairedCourse(t, o, "direct-faketcp", "direct-tcp")
	r.line("Links of 40 ms round trip that lose 1 %% each way; 200 bytes every 2 ms, 5000 times.")
	r.line("")
	r.line("| path | answered | round trip p50, ms | p99, ms | max, ms |")
	r.line("|---|---|---|---|---|")
	for _, w := range c.ways {
		var p programs.Pings
		programs.Load(t, c.scene.Laptop, &p, "ping", "-to", w.to, "-size", "200", "-n", "5000", "-interval", "2ms")
		r.line("| %s | %d of %d | %.1f | %.1f | %.1f |", w.name, p.Answered, p.Sent, p.P50/1e3, p.P99/1e3, p.Max/1e3)
	}
}

// withoutUDP measures how soon there is a path, and the best one, where UDP is
// dropped at one side.
func withoutUDP(t netns.T, r *report) {
	var firsts, bests []float64
	for i := range setUps {
		netns.Scope(t, func(t netns.T) {
			x := programs.UDPDroppedAtLaptop()
			_, j := x.Travel(t, 0)
			if err := x.Arrived(j); err != nil {
				t.Fatalf("%v", err)
			}
			r.line("- %d: first answer after %.0f ms, home and laptop on %s and %s after %.0f ms", i+1,
				j.FirstAnswer.Seconds()*1e3, j.Home, j.Laptop, j.Best.Seconds()*1e3)
			firsts, bests = append(firsts, j.FirstAnswer.Seconds()), append(bests, j.Best.Seconds())
		})
	}
	r.target(median(firsts) <= 2, "first data, WireGuard's handshake included, median", fmt.Sprintf("%.2f s", median(firsts)), "at most 2 s")
	r.target(median(bests) <= 6, "best path on both sides, median", fmt.Sprintf("%.2f s", median(bests)), "at most 6 s")
}
