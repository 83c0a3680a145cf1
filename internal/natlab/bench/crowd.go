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
	crowdBurst     = 4
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

// gathering is what a crowd before one public port came to.
type gathering struct {
	programs.Many
	files                 uint64 // that a process may have
	before                int64  // memory of the coordinator, bytes
	each, eachHome        float64
	used, usedHome        time.Duration
	overruns, overrunHome uint64
	dropped               string
}

// crowd sends from thousands of plain clients at once to one public port.
func crowd(t netns.T, r *report) {
	files, err := raiseFiles()
	if err != nil {
		t.Fatalf("%v", err)
	}
	clients := min(crowdWanted, int(files-filesSpare)/filesPerClient)
	s := netns.Standard(t, netns.Options{Wire: true, NoCarrier: true})
	// Neither is behind a NAT: what the kernel does for each of them it does in
	// the time of the program that sends, and that is not what is asked here.
	at, from := s.HomeRouter, s.LaptopRouter
	programs.Sink(at, "127.0.0.1:9000")
	const rule = "publish: [{ports: [9102], new_clients_second: 100000, new_clients_second_source: 100000}]\n"
	coordinator, home := publish(t, s, at, rule, "raw=udp://127.0.0.1:9000?raw&public=9102")
	var p programs.Pings
	programs.Load(t, from, &p, "ping", "-to", netns.VPSAddr+":9102", "-n", "50")

	g := gathering{files: files, before: coordinator.Memory(), used: coordinator.CPU(), usedHome: home.CPU()}
	most, beforeHome := g.before, home.Memory()
	mostHome := beforeHome
	many := (clients + loadsAtMost - 1) / loadsAtMost
	var loads []programs.LoadRun
	for i := range many {
		n := clients/many + min(1, max(0, clients%many-i))
		loads = append(loads, programs.StartLoad(t, from, "many", "-to", netns.VPSAddr+":9102", "-size", fmt.Sprint(crowdSize),
			"-n", fmt.Sprint(n), "-interval", "1ms", "-rate", fmt.Sprint(crowdRate/many), "-burst", fmt.Sprint(crowdBurst), "-for", "5s"))
	}
	for loads[0].Running() {
		most, mostHome = max(most, coordinator.Memory()), max(mostHome, home.Memory())
		time.Sleep(100 * time.Millisecond)
	}
	for _, l := range loads {
		var m programs.Many
		l.Result(&m, 20*time.Second)
		g.Add(m)
	}
	g.used, g.usedHome = coordinator.CPU()-g.used, home.CPU()-g.usedHome
	g.each, g.eachHome = float64(most-g.before)/float64(clients), float64(mostHome-beforeHome)/float64(clients)
	g.overruns, g.overrunHome, g.dropped = s.VPS.Overruns(), at.Overruns(), drops(coordinator)
	g.report(r)
}

func (g *gathering) report(r *report) {
	r.line("%d plain clients on one host, each with a port of its own, to one public port and on to an agent, no NAT between; %d-byte", g.Clients, crowdSize)
	r.line("datagrams from all in turn for 5 s.")
	if g.Clients < crowdWanted {
		r.line("(This host lets a process have no more than %d files, and the agent needs %d for a client; a test of the coordinator", g.files, filesPerClient)
		r.line("alone goes to 20,000.)")
	}
	r.line("")
	r.line("- served: %d of %d, seen by the service from %d addresses; answers to the wrong client: %d", g.Answered, g.Clients, g.Sources, g.Strange)
	r.line("- one datagram of a client at a time, %d a second asked for, %.0f sent: %d of %d lost", crowdRate, g.Single.Rate, g.Single.Lost(), g.Single.Sent)
	r.target(g.Bursts.Lost() == 0 && g.Bursts.Rate >= 0.9*crowdRate,
		fmt.Sprintf("%d of a client at a time, %.0f a second: lost of %d", crowdBurst, g.Bursts.Rate, g.Bursts.Sent), fmt.Sprint(g.Bursts.Lost()), fmt.Sprintf("0 at %d", crowdRate))
	r.target(g.each <= crowdMost, "memory of the coordinator for a client, at most", kilobytes(g.each), "at most "+kilobytes(crowdMost))
	r.line("- memory of the coordinator before: %s; of the agent for a client: %s", megabytes(g.before), kilobytes(g.eachHome))
	r.line("- processor time in all, the clients' coming included: %.1f s of the coordinator, %.1f s of the agent", g.used.Seconds(), g.usedHome.Seconds())
	r.line("- datagrams that found a full socket: %d at the coordinator, %d at the agent", g.overruns, g.overrunHome)
	r.line("- of the coordinator's status: `%s`", g.dropped)
}

func kilobytes(n float64) string { return fmt.Sprintf("%.1f KB", n/1024) }

// drops is the line of the coordinator's status that tells of a public port's
// drops.
func drops(c *programs.Coordinator) string {
	for line := range strings.Lines(c.Do("status")) {
		if strings.HasPrefix(line, "public ") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
