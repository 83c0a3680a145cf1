//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// Ways of a plain client home, all by way of the VPS.
const (
	redirectedWay = "kernel alone, port forwarded twice"
	plainByVPS    = "plain forwarder pair"
	coturnWay     = "coturn's relay"
	publicRaw     = "public port, raw"
	publicSealed  = "public port, sealed"
)

// public compares a public port with what else leads clients without an agent
// to a service behind NATs.
func public(t netns.T, r *report, runs int) {
	c := publicCourse(t)
	c.each(runs, "round trips", func(w way) { c.ping(w) })
	for _, shape := range []string{single, bursts} {
		c.each(runs, shape, func(w way) {
			if w.name != redirectedWay { // the others are not measured by it
				c.search(w, shape)
			}
		})
	}
	r.line("1400-byte datagrams of one client on the laptop, without an agent, to the VPS and on to a service at home; loss under 0.5 %%,")
	r.line("median; \">\" where the load could do no more. CPU is that of both programs on the way, with bursts.")
	r.line("")
	r.line("| way | k/s, %s | Mbit/s | k/s, %s | Mbit/s | CPU s per GB | round trip p50, us |", single, bursts)
	r.line("|---|---|---|---|---|---|---|")
	for _, w := range c.ways {
		trip := median(c.pinged[w.name].P50)
		one, many := c.found[[2]string{w.name, single}], c.found[[2]string{w.name, bursts}]
		if one == nil {
			r.line("| %s | | | | | | %.0f |", w.name, trip)
			continue
		}
		r.line("| %s | %s | %.0f | %s | %.0f | %.2f | %.0f |", w.name,
			one.rate(), median(one.Mbit), many.rate(), median(many.Mbit), median(many.CPU), trip)
	}
	r.line("")
	c.compare(r, publicRaw, coturnWay, bursts, 4)
	c.compare(r, publicRaw, coturnWay, single, 1)
	bare := median(c.pinged[redirectedWay].P50)
	ours, theirs := median(c.pinged[publicRaw].P50)-bare, median(c.pinged[plainByVPS].P50)-bare
	r.target(ours <= 1.2*theirs, fmt.Sprintf("round trip p50 that is added to the kernel's, %s against %s (%.0f and %.0f us)", publicRaw, plainByVPS, ours, theirs),
		fmt.Sprintf("%.2f times", ours/theirs), "at most 1.2")
}

// publicCourse puts all ways into one scene.
func publicCourse(t netns.T) *course {
	s := netns.Standard(t, netns.Options{
		Wire:       true,
		CarrierNAT: netns.Masquerade().Publish("udp", 9000, netns.HomeWAN+":9000"),
		HomeNAT:    netns.Masquerade().Publish("udp", 9000, netns.HomeAddr+":9000"),
	})
	s.Home.Start("load", "sink", "-listen", "0.0.0.0:9000").WaitLog("sink listens", startLimit)
	s.VPS.Sysctl("net.ipv4.ip_forward=1")
	s.VPS.NFT(fmt.Sprintf(`table ip bench {
 chain before { type nat hook prerouting priority dstnat; ip daddr %s udp dport 9100 dnat to %s:9000; }
 chain after { type nat hook postrouting priority srcnat; ip daddr %s udp dport 9000 masquerade; }
}
`, netns.VPSAddr, netns.HomePublic, netns.HomePublic))
	near, far := programs.PlainPairByVPS(s, netns.VPSAddr+":9101", "127.0.0.1:9000")
	relayed, server, leg := programs.TURNRelay(s, 3479, "127.0.0.1:9000")
	coordinator, home := publish(t, s, s.Home, "publish: [{ports: [9102, 9103]}]\n", "raw=udp://127.0.0.1:9000?raw&public=9102", "sealed=udp://127.0.0.1:9000?public=9103")
	ours := []onWay{{"coordinator", coordinator.Process}, {"home", home.Process}}
	c := newCourse(t, s, []way{
		{name: redirectedWay, to: netns.VPSAddr + ":9100"},
		{name: plainByVPS, to: netns.VPSAddr + ":9101", parts: []onWay{{"VPS", near}, {"home", far}}},
		{name: coturnWay, to: relayed, parts: []onWay{{"coturn", server}, {"home", leg}}},
		{name: publicRaw, to: netns.VPSAddr + ":9102", parts: ours},
		{name: publicSealed, to: netns.VPSAddr + ":9103", parts: ours},
	}...)
	for _, w := range c.ways {
		c.reach(w)
	}
	return c
}

// publish starts a coordinator with these settings, which let agents open
// ports, and an agent on a host, which opens some.
func publish(t netns.T, s *netns.Scene, at *netns.Host, settings string, exposed ...string) (*programs.Coordinator, *programs.Agent) {
	config := filepath.Join(s.Dir(), "rendezvous.yaml")
	if err := os.WriteFile(config, []byte(settings), 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	c := programs.Serve(t, s.VPS, filepath.Join(s.Dir(), "coordinator"), []string{netns.VPSAddr}, "--config", config)
	home := programs.Join(t, at, s.Dir(), "home", c.Invite())
	var args []string
	for _, e := range exposed {
		args = append(args, "--expose", e)
	}
	home.Up(args...)
	return c, home
}
