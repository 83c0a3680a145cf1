//go:build linux

package programs

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
)

// Network is the standard scene with a coordinator and two agents that run:
// "home", which exposes, and "laptop", which dials.
type Network struct {
	*netns.Scene
	Coordinator  *Coordinator
	Home, Laptop *Agent      // nil after Open
	Pairs        [][2]*Agent // those of Pair
	guises       [2]netns.Guise
}

// Start builds the standard scene and joins both agents to one network. expose
// is what home offers ("wg=udp://127.0.0.1:51820"), dial where the laptop
// listens for it ("home/wg=udp://127.0.0.1:51821").
func Start(t netns.T, o netns.Options, expose, dial string) *Network {
	t.Helper()
	return Situation{Options: o}.Start(t, expose, dial)
}

// Reach starts a sink at home and sends datagrams to it until both agents are
// on a path of that kind.
func (n *Network) Reach(t netns.T, sink, to, kind string) {
	t.Helper()
	Sink(n.Scene.Home, sink)
	load := StartLoad(t, n.Scene.Laptop, "ping", "-to", to, "-size", "100", "-n", "3000", "-interval", "10ms")
	n.Laptop.WaitPath("home", kind, patience)
	n.Home.WaitPath("laptop", kind, patience)
	load.Kill()
}

// Load runs the load on a host and reads its result into result.
func Load(t netns.T, h *netns.Host, result any, args ...string) {
	t.Helper()
	out := h.Run(append([]string{"load"}, args...)...)
	if err := json.Unmarshal([]byte(out), result); err != nil {
		t.Fatalf("read what the load on %s found: %v: %s", h.Name, err, out)
	}
}

// Pings is the result of the load's ping.
type Pings struct {
	Began        float64 `json:"began_ms"` // on CLOCK_MONOTONIC
	Sent         int     `json:"sent"`
	Answered     int     `json:"answered"`
	Duplicates   int     `json:"duplicates"`
	P5           float64 `json:"p5_us"`
	P50          float64 `json:"p50_us"`
	P99          float64 `json:"p99_us"`
	P999         float64 `json:"p999_us"`
	Max          float64 `json:"max_us"`
	FirstArrival float64 `json:"first_arrival_ms"`
	FirstAnswer  float64 `json:"first_answer_ms"`
	LongestGap   float64 `json:"longest_gap_ms"`
	GapAt        float64 `json:"gap_at_ms"`
}

// Clients is the result of the load's clients.
type Clients struct {
	Clients  int    `json:"clients"`
	Answered int    `json:"answered"`
	Strange  int    `json:"strange"`
	Sources  uint64 `json:"sources"`
}

// Many is the result of the load's many.
type Many struct {
	Clients  int    `json:"clients"`
	Answered int    `json:"answered"`
	Strange  int    `json:"strange"`
	Sources  uint64 `json:"sources"`
	Single   Trial  `json:"single"`
	Bursts   Trial  `json:"bursts"`
}

// Trial is a load at one rate.
type Trial struct {
	Rate float64 `json:"pps"`
	Sent uint64  `json:"sent"`
	Loss float64 `json:"loss"`
}

// Lost is how many datagrams did not arrive.
func (r Trial) Lost() uint64 { return uint64(math.Round(float64(r.Sent) * r.Loss)) }

func (r *Trial) add(o Trial) {
	lost := r.Lost() + o.Lost()
	r.Rate, r.Sent = r.Rate+o.Rate, r.Sent+o.Sent
	r.Loss = float64(lost) / float64(max(r.Sent, 1))
}

// Add adds those of another load at the same time.
func (m *Many) Add(o Many) {
	m.Clients, m.Answered = m.Clients+o.Clients, m.Answered+o.Answered
	m.Strange, m.Sources = m.Strange+o.Strange, m.Sources+o.Sources
	m.Single.add(o.Single)
	m.Bursts.add(o.Bursts)
}

// Rate is the result of the load's search and rate.
type Rate struct {
	Rate      float64 `json:"pps"`
	Mbit      float64 `json:"mbit_s"`
	Received  float64 `json:"received_pps"`
	Delay50   float64 `json:"delay_p50_us"` // of what arrived, one way
	Delay99   float64 `json:"delay_p99_us"`
	Loss      float64 `json:"loss"`
	Confirmed bool    `json:"confirmed"`
	Limited   bool    `json:"generator_limited"`
	CPUPerGB  float64 `json:"cpu_s_per_gb"`
	// CPUEach is what each of the processes that were asked about used, in
	// seconds, and RSSEach its memory at the end, in bytes.
	CPUEach    []float64 `json:"cpu_s_each"`
	RSSEach    []int64   `json:"rss_each"`
	RSS        int64     `json:"rss_bytes"`
	Duplicates uint64    `json:"duplicates"`
	Wrong      uint64    `json:"wrong"`
}

// Sink starts the load's sink on a host.
func Sink(h *netns.Host, addr string) *netns.Process {
	p := h.Start("load", "sink", "-listen", addr)
	p.WaitLog("sink listens", ready)
	return p
}

// PlainPair starts the baseline between home and laptop: clients find it at
// listen on the laptop, it leads to the service at to on home. The routers
// must preserve ports (no carrier, or a carrier that masquerades).
func PlainPair(s *netns.Scene, listen, to string) (near, far *netns.Process) {
	return plainPair(s, plainEnds{s.Laptop, netns.LaptopAddr, netns.LaptopPublic, ":7000"}, listen, to)
}

// SealedPair is PlainPair where each datagram is sealed by AES.
func SealedPair(s *netns.Scene, listen, to string) (near, far *netns.Process) {
	return plainPair(s, plainEnds{s.Laptop, netns.LaptopAddr, netns.LaptopPublic, ":7001"}, listen, to, "-aes")
}

// PlainPairByVPS is PlainPair with the clients' half on the VPS.
func PlainPairByVPS(s *netns.Scene, listen, to string) (near, far *netns.Process) {
	return plainPair(s, plainEnds{s.VPS, netns.VPSAddr, netns.VPSAddr, ":7000"}, listen, to)
}

// plainEnds is where the clients' half of a plain pair is, its address there and
// as home sees it, and the port that both halves' flow has.
type plainEnds struct {
	near             *netns.Host
	addr, seen, port string
}

func plainPair(s *netns.Scene, e plainEnds, listen, to string, more ...string) (near, far *netns.Process) {
	far = s.Home.Start("plainforward", append(more, "-bind", netns.HomeAddr+e.port, "-peer", e.seen+e.port, "-to", to)...)
	near = e.near.Start("plainforward", append(more, "-bind", e.addr+e.port, "-peer", netns.HomePublic+e.port, "-listen", listen)...)
	for _, p := range []*netns.Process{near, far} {
		p.WaitLog("the peer is heard", ready)
	}
	return near, far
}

// TURNRelay puts a service of home's behind coturn on the VPS, for clients of
// the laptop's network, and gives the address that they send to.
func TURNRelay(s *netns.Scene, port uint16, to string) (addr string, server, far *netns.Process) {
	server = s.VPS.TurnserverRelaying(port, netns.VPSAddr)
	far = s.Home.Start("turnforward", "-server", fmt.Sprintf("%s:%d", netns.VPSAddr, port), "-to", to, "-clients", netns.LaptopPublic)
	line := far.WaitLog("relayed at ", ready)
	return strings.TrimPrefix(line, "relayed at "), server, far
}

// LoadRun is a load that runs while the test does something to the network.
type LoadRun struct {
	*netns.Process
	t netns.T
}

// StartLoad begins what Load does.
func StartLoad(t netns.T, h *netns.Host, args ...string) LoadRun {
	t.Helper()
	return LoadRun{h.Start("load", args...), t}
}

// Result waits for the load's end and reads its result.
func (l LoadRun) Result(result any, limit time.Duration) {
	l.t.Helper()
	l.Wait(limit)
	if err := json.Unmarshal([]byte(l.Log()), result); err != nil {
		l.t.Fatalf("read what the load found: %v: %s", err, l.Log())
	}
}
