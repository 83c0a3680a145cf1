//go:build linux

// The program load makes UDP load and measures what comes of it:
//
//	load sink    -listen ADDR        the service behind what is measured
//	load search  -to ADDR            the highest rate that loses less than 0.5 %
//	load rate    -to ADDR -rate N    one trial; rate 0 is as fast as possible
//	load ping    -to ADDR            round trips, and the longest interruption
//	load clients -to ADDR -n N       N clients, each of which must get its own answers
//	load many    -to ADDR -n N -rate R   two trials out of N clients' sockets in turn: one by one, and in bursts
//
// ADDR is where what is measured listens; it carries the datagrams to the
// sink. All goes over that one way, questions to the sink too. Each prints one
// JSON object on one line.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

// options are the flags of all modes; each uses its own.
type options struct {
	to, listen netip.AddrPort
	shape
	count    int
	rate     float64
	length   time.Duration
	interval time.Duration
	hold     time.Duration
	pids     pidList
	verbose  bool
}

func run(args []string) error {
	modes := map[string]func(options) (any, error){
		"sink":    func(o options) (any, error) { return nil, serve(o.listen) },
		"search":  search,
		"rate":    rate,
		"ping":    ping,
		"clients": clients,
		"many":    manyClients,
	}
	if len(args) == 0 || modes[args[0]] == nil {
		return errors.New("say sink, search, rate, ping, clients or many; load MODE -h lists a mode's flags")
	}
	o, err := parse(args[0], args[1:])
	if err != nil {
		return err
	}
	result, err := modes[args[0]](o)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(result)
}

func parse(mode string, args []string) (options, error) {
	o := options{}
	f := flag.NewFlagSet(mode, flag.ContinueOnError)
	f.TextVar(&o.to, "to", netip.AddrPort{}, "`address:port` to send to")
	f.TextVar(&o.listen, "listen", netip.AddrPort{}, "`address:port` of the sink")
	f.IntVar(&o.size, "size", 1400, "bytes a datagram; ping, clients: 100 is usual")
	f.IntVar(&o.burst, "burst", 1, "datagrams a system call, by UDP_SEGMENT")
	f.BoolVar(&o.checked, "check", false, "fill datagrams, and let the sink check them")
	f.IntVar(&o.count, "n", 1000, "echoes of ping; clients")
	f.Float64Var(&o.rate, "rate", 50_000, "datagrams a second; search begins with it")
	f.DurationVar(&o.length, "for", 500*time.Millisecond, "length of a trial")
	f.DurationVar(&o.interval, "interval", 2*time.Millisecond, "between two echoes of ping; between two clients' starts")
	f.DurationVar(&o.hold, "hold", 0, "clients: stay so long after the last answer")
	f.Var(&o.pids, "pids", "processes whose use of processor and memory is reported")
	f.BoolVar(&o.verbose, "v", false, "show each trial of a search")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	return o, o.check(mode)
}

func (o options) check(mode string) error {
	var faults []string
	if mode == "sink" && !o.listen.IsValid() {
		faults = append(faults, "-listen is missing")
	}
	if mode != "sink" && !o.to.IsValid() {
		faults = append(faults, "-to is missing")
	}
	if o.size < headerSize || o.size > maxSize {
		faults = append(faults, fmt.Sprintf("-size must be %d to %d", headerSize, maxSize))
	}
	if o.burst < 1 || o.burst > 64 || o.burst*o.size > maxSize {
		faults = append(faults, "-burst must be 1 to 64, and a burst no larger than 65507 bytes")
	}
	if o.count < 1 || o.rate < 0 || o.length <= 0 || o.interval < 0 {
		faults = append(faults, "-n, -rate, -for and -interval must not be negative, nor the first and third zero")
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, "; "))
	}
	return nil
}

// measured is what processes used during a trial, beside its figures.
type measured struct {
	CPUSeconds  float64   `json:"cpu_s,omitempty"`
	CPUPerGB    float64   `json:"cpu_s_per_gb,omitempty"`     // of payload that arrived
	CPUPerThing float64   `json:"cpu_us_per_dgram,omitempty"` // that arrived
	CPUEach     []float64 `json:"cpu_s_each,omitempty"`       // in the order of -pids
	RSS         int64     `json:"rss_bytes,omitempty"`
	RSSEach     []int64   `json:"rss_each,omitempty"`
	Duplicates  uint64    `json:"duplicates"`
	Reordered   uint64    `json:"reordered"`
	Wrong       uint64    `json:"wrong"`
}

// bench is a generator that also measures what processes use.
type bench struct {
	generator
	pids []int
	last measured
}

func newBench(o options) (*bench, error) {
	runtime.LockOSThread()
	s, err := dialSocket(o.to)
	if err != nil {
		return nil, err
	}
	return &bench{generator: generator{socket: s, shape: o.shape, run: uint16(rand.Uint32())}, pids: o.pids}, nil
}

func (b *bench) measure(rate float64, d time.Duration) (outcome, error) {
	before, err := costsOf(b.pids)
	if err != nil {
		return outcome{}, err
	}
	o, err := b.trial(rate, d)
	if err != nil {
		return o, err
	}
	after, err := costsOf(b.pids)
	b.last = measured{Duplicates: o.counts.duplicates, Reordered: o.counts.reordered, Wrong: o.counts.wrong}
	for i, c := range after {
		used := c.cpu - before[i].cpu
		b.last.CPUEach, b.last.RSSEach = append(b.last.CPUEach, used), append(b.last.RSSEach, c.rss)
		b.last.CPUSeconds, b.last.RSS = b.last.CPUSeconds+used, b.last.RSS+c.rss
	}
	if o.counts.received > 0 {
		b.last.CPUPerGB = b.last.CPUSeconds / (float64(o.counts.bytes) / 1e9)
		b.last.CPUPerThing = b.last.CPUSeconds * 1e6 / float64(o.counts.received)
	}
	return o, err
}

func search(o options) (any, error) {
	b, err := newBench(o)
	if err != nil {
		return nil, err
	}
	log := func(string, ...any) {}
	if o.verbose {
		log = func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
	}
	s := seek{trial: b.measure, log: log, from: max(o.rate, lowestRate), loss: 0.005, short: o.length, long: 3 * o.length}
	f, err := s.run()
	return struct {
		found
		measured
	}{f, b.last}, err
}

func rate(o options) (any, error) {
	b, err := newBench(o)
	if err != nil {
		return nil, err
	}
	out, err := b.measure(o.rate, o.length)
	return struct {
		outcome
		measured
	}{out, b.last}, err
}

func ping(o options) (any, error) {
	runtime.LockOSThread()
	s, err := dialSocket(o.to)
	if err != nil {
		return nil, err
	}
	return pinging{socket: s, size: o.size, count: o.count, interval: o.interval, linger: time.Second}.run()
}

func clients(o options) (any, error) {
	return crowd{to: o.to, clients: o.count, rounds: 3, size: o.size, pace: o.interval, hold: o.hold}.run()
}
