//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// The ways that are compared, by the names that the report gives them. All lead
// through the same NATs.
const (
	kernelWay    = "kernel alone, port forwarded"
	plainWay     = "plain forwarder pair"
	aesWay       = "forwarder pair, AES"
	wireguardWay = "wireguard-go"
	sealedWay    = "direct-udp sealed"
	rawWay       = "direct-udp raw"
	fakeWay      = "direct-faketcp sealed"
	relayWay     = "relay-udp sealed"
)

// throughput searches for the highest rate that loses less than 0.5 %, of each
// path in each shape of load, beside what there is without us.
func throughput(t netns.T, r *report, o options) {
	c := everyPath(t, o)
	c.ways = slices.DeleteFunc(c.ways, func(w way) bool { return !o.wants(w.name) })
	c.trial = "250ms"
	runs := o.runs
	shapes := slices.DeleteFunc([]string{single, bursts, smallSingle, smallBursts}, func(s string) bool { return !listed(o.shapes, s) })
	c.each(runs, "round trips", func(w way) { c.ping(w) })
	for _, shape := range shapes {
		c.each(runs, shape, func(w way) { c.search(w, shape) })
	}
	c.table(r, shapes)
	r.line("")
	c.compare(r, sealedWay, aesWay, bursts, 8)
	c.compare(r, sealedWay, kernelWay, single, 0.95)
	c.compare(r, rawWay, aesWay, bursts, 14)
	c.compare(r, fakeWay, plainWay, bursts, 5)
	c.compare(r, relayWay, coturnWay, bursts, 4)
	c.compare(r, relayWay, coturnWay, single, 1.2)
	c.added(r)
	c.keep(r)
	if slices.Contains(shapes, bursts) {
		withoutSegmentation(c, r, runs)
	}
}

// withoutSegmentation has every device cut datagrams in software, as one without
// UDP segmentation does.
func withoutSegmentation(c *course, r *report, runs int) {
	ways := slices.DeleteFunc(slices.Clone(c.ways), func(w way) bool { return w.name != aesWay && w.name != sealedWay })
	if len(ways) < 2 {
		return
	}
	c.scene.UDPSegmentation(false)
	defer c.scene.UDPSegmentation(true)
	plain := newCourse(c.t, c.scene, ways...)
	plain.trial = c.trial
	plain.each(runs, "no UDP segmentation", func(w way) { plain.search(w, bursts) })
	sealed, aes := plain.found[[2]string{sealedWay, bursts}], plain.found[[2]string{aesWay, bursts}]
	ratio := median(sealed.PPS) / median(aes.PPS)
	r.target(ratio >= 3.5, fmt.Sprintf("%s against %s, %s, on devices without UDP segmentation (%s and %s k/s)", sealedWay, aesWay, bursts, sealed.rate(), aes.rate()),
		fmt.Sprintf("%.2f times", ratio), "at least 3.50")
}

// everyPath puts all into one scene: two NATs that forward ports for those who
// can't punch, and a pair of agents for each kind of path, which it alone is
// allowed.
func everyPath(t netns.T, o options) *course {
	n := programs.Situation{Options: netns.Options{
		Wire:       true,
		CarrierNAT: netns.Masquerade().Publish("udp", 9000, netns.HomeWAN+":9000").Publish("udp", 51820, netns.HomeWAN+":51820"),
		HomeNAT:    netns.Masquerade().Publish("udp", 9000, netns.HomeAddr+":9000").Publish("udp", 51820, netns.HomeAddr+":51820"),
	}}.Open(t)
	const sink = "127.0.0.1:9000"
	n.Scene.Home.Start("load", "sink", "-listen", "0.0.0.0:9000").WaitLog("sink listens", startLimit)
	c := newCourse(t, n.Scene, baselines(n.Scene, sink)...)
	kinds := []string{"direct-udp", "direct-faketcp", "direct-tcp", "relay-udp", "relay-faketcp", "relay-tls"}
	for i, kind := range kinds {
		if !o.wants(kind+" sealed") && !o.wants(kind+" raw") {
			continue
		}
		to := fmt.Sprintf("127.0.0.1:%d", 9010+i)
		home, laptop := n.Pair(t, kind, "echo=udp://"+sink, "udp://"+to)
		w := way{name: kind + " sealed", to: to, parts: []onWay{{"home", home.Process}, {"laptop", laptop.Process}}, kind: kind, agents: [2]*programs.Agent{home, laptop}}
		if kind[0] == 'r' {
			w.parts = append(w.parts, onWay{"coordinator", n.Coordinator.Process})
		}
		c.ways = append(c.ways, w)
		c.reach(w)
		laptop.WaitPath(home.Name, kind, 20*time.Second)
		home.WaitPath(laptop.Name, kind, 20*time.Second)
		if kind == "direct-udp" {
			home.Do("expose", "raw=udp://"+sink+"?raw")
			laptop.Do("dial", home.Name+"/raw=udp://127.0.0.1:9003")
			raw := way{name: rawWay, to: "127.0.0.1:9003", parts: w.parts}
			c.ways = append(c.ways, raw)
			c.reach(raw)
		}
	}
	return c
}

// reach sends the first datagrams, which make a path.
func (c *course) reach(w way) {
	var p programs.Pings
	programs.Load(c.t, c.scene.Laptop, &p, "ping", "-to", w.to, "-size", "100", "-n", "500")
	if p.Answered == 0 {
		c.t.Fatalf("%s: none of %d datagrams was answered", w.name, p.Sent)
	}
}

// baselines are the ways without us.
func baselines(s *netns.Scene, sink string) []way {
	plainNear, plainFar := programs.PlainPair(s, "127.0.0.1:9001", sink)
	aesNear, aesFar := programs.SealedPair(s, "127.0.0.1:9002", sink)
	server, client := s.Home.WireGuard("10.9.0.1/24", 51820), s.Laptop.WireGuard("10.9.0.2/24", 0)
	server.SetPeer(client, "", "10.9.0.2/32")
	client.SetPeer(server, netns.HomePublic+":51820", "10.9.0.1/32")
	// 1400 bytes of payload fit into one datagram of WireGuard's, and that into 1500.
	s.Home.IP("link set dev " + server.Interface + " mtu 1440")
	s.Laptop.IP("link set dev " + client.Interface + " mtu 1440")
	relayed, turn, leg := programs.TURNRelay(s, 3479, sink)
	return []way{
		{name: kernelWay, to: netns.HomePublic + ":9000"},
		{name: plainWay, to: "127.0.0.1:9001", parts: []onWay{{"laptop", plainNear}, {"home", plainFar}}},
		{name: aesWay, to: "127.0.0.1:9002", parts: []onWay{{"laptop", aesNear}, {"home", aesFar}}},
		{name: wireguardWay, to: "10.9.0.1:9000", parts: []onWay{{"laptop", client.Process}, {"home", server.Process}}},
		{name: coturnWay, to: relayed, parts: []onWay{{"coturn", turn}, {"home", leg}}},
	}
}

func (c *course) table(r *report, shapes []string) {
	r.line("Thousands of datagrams a second with loss under 0.5 %%, median and how far runs were apart; 1400 bytes where nothing else is said;")
	r.line("\">\" where the load could do no more. CPU and memory are those of all programs on the way, with bursts of 1400 bytes.")
	r.line("")
	r.line("| way | %s | CPU s per GB | by program | memory |", strings.Join(shapes, " | "))
	r.line("|%s", strings.Repeat("---|", len(shapes)+4))
	for _, w := range c.ways {
		var rates []string
		for _, shape := range shapes {
			rates = append(rates, c.found[[2]string{w.name, shape}].rate())
		}
		f := c.found[[2]string{w.name, bursts}]
		var each, memory []string
		for _, p := range w.parts {
			if f == nil {
				break
			}
			each = append(each, fmt.Sprintf("%s %.2f", p.name, median(f.Each[p.name])))
			memory = append(memory, megabytes(f.RSS[p.name]))
		}
		r.line("| %s | %s | %.2f | %s | %s |", w.name, strings.Join(rates, " | "), f.cpu(), strings.Join(each, ", "), strings.Join(memory, ", "))
	}
	r.line("")
	r.line("Round trip of 100 bytes, one each millisecond, us, median of the runs.")
	r.line("")
	r.line("| way | p5 | p50 | p99 | p99.9 | p50 above the kernel's | p99 above it |")
	r.line("|---|---|---|---|---|---|---|")
	bare := c.pinged[kernelWay]
	for _, w := range c.ways {
		p, above := c.pinged[w.name], "|"
		if bare != nil {
			above = fmt.Sprintf("%.0f | %.0f", median(p.P50)-median(bare.P50), median(p.P99)-median(bare.P99))
		}
		r.line("| %s | %.0f | %.0f | %.0f | %.0f | %s |", w.name, median(p.P5), median(p.P50), median(p.P99), median(p.P999), above)
	}
}

// added is what both agents together add to the kernel's round trip.
func (c *course) added(r *report) {
	ours, bare := c.pinged[sealedWay], c.pinged[kernelWay]
	if ours == nil || bare == nil {
		return
	}
	half, most := median(ours.P50)-median(bare.P50), median(ours.P99)-median(bare.P99)
	r.target(half <= 72, "round trip that both agents add on direct-udp, p50", fmt.Sprintf("%.0f us", half), "at most 72 us")
	r.target(most <= 200, "round trip that both agents add on direct-udp, p99", fmt.Sprintf("%.0f us", most), "at most 200 us")
}

// keep puts all figures into the report's JSON.
func (c *course) keep(r *report) {
	rates := map[string]map[string]*figures{}
	for key, f := range c.found {
		if rates[key[0]] == nil {
			rates[key[0]] = map[string]*figures{}
		}
		rates[key[0]][key[1]] = f
	}
	r.keep("throughput", rates)
	r.keep("round_trips", c.pinged)
	fmt.Fprintln(os.Stderr, "all paths are measured")
}
