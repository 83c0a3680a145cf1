//go:build linux

package main

import (
	"fmt"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// fastWay is the raw flow that the kernel forwards.
const fastWay = "direct-udp raw, by the kernel"

// fastPath sets raw flows that the kernel forwards beside the kernel's own way
// through the same NATs, and beside agents without that.
func fastPath(t netns.T, r *report, runs int) {
	n := programs.Situation{Flags: []string{"--fastpath"}, Options: netns.Options{
		Wire:       true,
		CarrierNAT: netns.Masquerade().Publish("udp", 9000, netns.HomeWAN+":9000"),
		HomeNAT:    netns.Masquerade().Publish("udp", 9000, netns.HomeAddr+":9000"),
	}}.Start(t, "raw=udp://127.0.0.1:9000?raw", "home/raw=udp://127.0.0.1:9001")
	n.Scene.Home.Start("load", "sink", "-listen", "0.0.0.0:9000").WaitLog("sink listens", startLimit)
	home := programs.Join(t, n.Scene.Home, n.Dir(), "home-plain", n.Home.Do("invite"))
	home.Up("--expose", "raw=udp://127.0.0.1:9000?raw")
	laptop := programs.Join(t, n.Scene.Laptop, n.Dir(), "laptop-plain", n.Home.Do("invite"))
	laptop.Up("--dial", "home-plain/raw=udp://127.0.0.1:9002")
	c := newCourse(t, n.Scene,
		way{name: kernelWay, to: netns.HomePublic + ":9000"},
		way{name: rawWay, to: "127.0.0.1:9002", parts: []onWay{{"home", home.Process}, {"laptop", laptop.Process}}},
		way{name: fastWay, to: "127.0.0.1:9001", parts: []onWay{{"home", n.Home.Process}, {"laptop", n.Laptop.Process}}},
	)
	c.each(runs, "round trips", func(w way) {
		defer c.use(n, w)()
		c.ping(w)
	})
	shapes := []string{single, bursts}
	for _, shape := range shapes {
		c.each(runs, shape, func(w way) {
			c.use(n, w)()
			c.search(w, shape)
		})
	}
	c.table(r, shapes)
	r.line("")
	c.compare(r, fastWay, kernelWay, bursts, 0.9)
	c.compare(r, fastWay, kernelWay, single, 0.9)
	cpu := c.found[[2]string{fastWay, bursts}].cpu()
	r.target(cpu <= 0.05, "processor time of both agents while the kernel forwards, bursts", fmt.Sprintf("%.3f s per GB", cpu), "at most 0.05 s per GB")
	r.keep("fastpath", c.pinged)
}

// use keeps a way's flow in use until the kernel has it, and goes on until stop is
// called: an idle flow goes through the agent first.
func (c *course) use(n *programs.Network, w way) (stop func()) {
	if w.name == kernelWay {
		return func() {}
	}
	load := programs.StartLoad(c.t, c.scene.Laptop, "ping", "-to", w.to, "-size", "100", "-n", "60000", "-interval", "10ms")
	if w.name == fastWay {
		n.Laptop.WaitFastPath(1, 10*time.Second)
		n.Home.WaitFastPath(1, 10*time.Second)
	}
	time.Sleep(500 * time.Millisecond)
	return load.Kill
}
