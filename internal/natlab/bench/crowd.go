//go:build linux

package main

import (
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// The crowd before one public port, and its targets.
const (
	crowdWanted    = 20_000
	crowdRate      = 50_000 // datagrams a second, of all together
	crowdMost      = 6 << 10
	crowdSize      = 200
	filesWanted    = 65536 // as LimitNOFILE of the units
	filesPerClient = 2     // of the agent at home: the leg, and the socket before the service
	filesSpare     = 200
	loadsAtMost    = 8000 // clients of one process, which are all in one thread
)

// raiseFiles lets the programs have as many files as the units give them, as
// far as this host does.
func raiseFiles() (uint64, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	wanted := unix.Rlimit{Cur: max(limit.Max, filesWanted), Max: max(limit.Max, filesWanted)}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &wanted) == nil {
		return wanted.Cur, nil
	}
	// Beyond the hard limit it takes CAP_SYS_RESOURCE. What is set is kept by
	// the programs that we start.
	wanted = unix.Rlimit{Cur: limit.Max, Max: limit.Max}
	return limit.Max, unix.Setrlimit(unix.RLIMIT_NOFILE, &wanted)
}

// crowd sends from thousands of plain clients at once to one public port.
func crowd(t netns.T, r *report) {
	files, err := raiseFiles()
	if err != nil {
		t.Fatalf("%v", err)
	}
	clients := min(crowdWanted, int(files-filesSpare)/filesPerClient)
	s := netns.Standard(t, netns.Options{Wire: true, CarrierNAT: netns.Masquerade()})
	programs.Sink(s.Home, "127.0.0.1:9000")
	const rule = "publish: [{ports: [9102], new_clients_second: 100000, new_clients_second_source: 100000}]\n"
	coordinator, home := publish(t, s, rule, "raw=udp://127.0.0.1:9000?raw&public=9102")
	var p programs.Pings
	programs.Load(t, s.Laptop, &p, "ping", "-to", netns.VPSAddr+":9102", "-n", "50")
	before, beforeHome := coordinator.Memory(), home.Memory()

	many := (clients + loadsAtMost - 1) / loadsAtMost
	var loads []programs.LoadRun
	for i := range many {
		n := clients/many + min(1, max(0, clients%many-i))
		loads = append(loads, programs.StartLoad(t, s.Laptop, "many", "-to", netns.VPSAddr+":9102", "-size", fmt.Sprint(crowdSize),
			"-n", fmt.Sprint(n), "-interval", "1ms", "-rate", fmt.Sprint(crowdRate/many), "-for", "5s"))
	}
	most, mostHome := before, beforeHome
	for loads[0].Running() {
		most, mostHome = max(most, coordinator.Memory()), max(mostHome, home.Memory())
		time.Sleep(100 * time.Millisecond)
	}
	var sum programs.Many
	for _, l := range loads {
		var m programs.Many
		l.Result(&m, 20*time.Second)
		sum.Add(m)
	}
	r.line("%d plain clients on the laptop, each with a port of its own, to one public port; %d-byte datagrams from all in turn for 5 s.", clients, crowdSize)
	if clients < crowdWanted {
		r.line("(This host lets a process have no more than %d files, and the agent at home needs %d for a client; a test of the coordinator", files, filesPerClient)
		r.line("alone goes to 20,000.)")
	}
	r.line("")
	r.line("- served: %d of %d, seen by the service from %d addresses; answers to the wrong client: %d", sum.Answered, sum.Clients, sum.Sources, sum.Strange)
	lost := sum.Sent - sum.Received()
	r.target(lost == 0 && sum.Rate >= 0.9*crowdRate, fmt.Sprintf("lost of %d datagrams at %.0f a second", sum.Sent, sum.Rate), fmt.Sprint(lost), fmt.Sprintf("0 at %d", crowdRate))
	each := func(now, before int64) float64 { return float64(now-before) / float64(clients) }
	r.target(each(most, before) <= crowdMost, "memory of the coordinator for a client, at most", kilobytes(each(most, before)), "at most "+kilobytes(crowdMost))
	r.line("- memory of the coordinator before: %s; of home's agent for a client: %s", megabytes(before), kilobytes(each(mostHome, beforeHome)))
	if dropped := drops(coordinator); dropped != "" {
		r.line("- what the coordinator says it dropped: %s", dropped)
	}
}

func kilobytes(n float64) string { return fmt.Sprintf("%.1f KB", n/1024) }

// drops are the lines of the coordinator's status that tell of drops.
func drops(c *programs.Coordinator) string {
	var all []string
	for line := range strings.Lines(c.Do("status")) {
		if strings.Contains(line, "drop") {
			all = append(all, strings.TrimSpace(line))
		}
	}
	return strings.Join(all, "; ")
}
