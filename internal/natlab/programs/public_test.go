//go:build linux

package programs_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// Services with public ports, at which clients without an agent reach them.
const (
	publicWG   = "wg=udp://127.0.0.1:51820?raw&public=51820"
	publicEcho = "echo=udp://127.0.0.1:9000?raw&public=9000"
	wgDoor     = netns.VPSAddr + ":51820"
	echoDoor   = netns.VPSAddr + ":9000"
)

// open is the standard scene with a coordinator that publishes, and an agent at
// home alone.
func open(t *testing.T, o netns.Options, settings string, expose ...string) *programs.Network {
	t.Helper()
	n := &programs.Network{Scene: netns.Standard(t, o)}
	n.Coordinator = programs.Serve(t, n.VPS, filepath.Join(n.Dir(), "coordinator"), []string{netns.VPSAddr, netns.VPSOtherAddr},
		"--publish", "51820,9000-9010")
	n.Home = programs.Join(t, n.Scene.Home, n.Dir(), "home", n.Coordinator.Invite())
	file := filepath.Join(n.Dir(), "agent.yaml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"--config", file}
	for _, e := range expose {
		args = append(args, "--expose", e)
	}
	n.Home.Up(args...)
	netns.Eventually(t, 5*time.Second, "the public ports", func() error {
		for _, s := range public(t, n.Home) {
			if s.State != "open" || s.Spares == 0 {
				return fmt.Errorf("%+v", s)
			}
		}
		return nil
	})
	return n
}

// port is a public port in the agent's status.
type port struct {
	State   string `json:"state"`
	Reason  string `json:"reason"`
	Clients int    `json:"clients"`
	Spares  int    `json:"spares"`
	Total   int    `json:"total"`
}

func public(t *testing.T, a *programs.Agent) (out []port) {
	t.Helper()
	var s struct {
		Services []struct {
			Public *port `json:"public"`
		} `json:"services"`
	}
	if err := json.Unmarshal([]byte(a.Do("status", "--json")), &s); err != nil {
		t.Fatal(err)
	}
	for _, v := range s.Services {
		if v.Public != nil {
			out = append(out, *v.Public)
		}
	}
	return out
}

// plain starts WireGuard at home and, as a client without an agent, on the
// laptop.
func plain(n *programs.Network) (server, client *netns.WireGuard) {
	server = n.Scene.Home.WireGuard("10.9.0.1/24", 51820)
	client = n.Scene.Laptop.WireGuard("10.9.0.2/24", 0)
	server.SetPeer(client, "", "10.9.0.2/32")
	client.SetPeer(server, wgDoor, "10.9.0.1/32")
	return server, client
}

// A stock WireGuard client reaches home behind NAT and CG-NAT at MTU 1420, with
// nothing but the coordinator's address: no fragment, and every datagram of it is
// on home's wire as it left the laptop, byte for byte. S3-01, S3-03, S3-04, S3-07
func TestPlainWireGuardReachesHome(t *testing.T) {
	t.Parallel()
	n := open(t, netns.DefaultOptions(), "", publicWG)
	atLaptop := programs.Listen(t, n.Scene, n.Scene.Laptop, netns.ETH, "udp")
	atHome := programs.Listen(t, n.Scene, n.Scene.Home, netns.ETH, "udp")
	plain(n)
	if took := n.Scene.Laptop.Ping("10.9.0.1", 10*time.Second); took > time.Second {
		t.Errorf("the first ping took %v", took)
	}
	n.Scene.Laptop.Run("ping", "-n", "-q", "-c40", "-i0.05", "-s1392", "-Mdo", "10.9.0.1") // 1420 with its headers
	atLaptop.Close()
	atHome.Close()
	near, far := atLaptop.Payloads("udp.port == 51820"), atHome.Payloads("ip.addr == "+netns.VPSAddr)
	full := 0
	for _, payload := range slices.Sorted(maps.Keys(near)) {
		if near[payload] > far[payload] {
			t.Errorf("%d times on the laptop's wire, %d times on home's: %.80s", near[payload], far[payload], payload)
		}
		if len(payload) == 2*1452 {
			full++
		}
	}
	if full < 80 {
		t.Errorf("%d datagrams of 1452 bytes crossed, of 80", full)
	}
	if f := n.Fragments(); f != 0 {
		t.Errorf("%d IP fragments on the wires", f)
	}
	mbit := n.Iperf3(n.Scene.Laptop, n.Scene.Home, "10.9.0.1", 2*time.Second)
	t.Logf("iperf3 through WireGuard: %.0f Mbit/s", mbit)
	if mbit < 5 {
		t.Errorf("iperf3 through WireGuard got %.1f Mbit/s", mbit)
	}
}

// Two hundred clients at once, all new in one instant, each have a socket before
// the service and get their own answers: with as many spares nobody has to ask
// twice, and with four the coordinator holds what comes until there are more.
// The log tells totals, once a second at most. S3-02, S3-05, S3-06, S3-23
func TestTwoHundredPlainClientsAtOnce(t *testing.T) {
	for _, spares := range []int{4, 200} {
		t.Run(fmt.Sprint(spares, " spares"), func(t *testing.T) {
			t.Parallel()
			n := open(t, netns.DefaultOptions(), fmt.Sprintf("public: {spares: %d, idle: 5s}", spares), publicEcho)
			programs.Sink(n.Scene.Home, sinkAddr)
			netns.Eventually(t, 5*time.Second, "all spares", func() error {
				if p := public(t, n.Home)[0]; p.Spares < spares {
					return fmt.Errorf("%+v", p)
				}
				return nil
			})
			var c programs.Clients
			programs.Load(t, n.Scene.Laptop, &c, "clients", "-to", echoDoor, "-size", "200", "-n", "200", "-interval", "0")
			if c.Answered != 200 || c.Strange != 0 || c.Sources != 200 {
				t.Errorf("200 clients: %+v", c)
			}
			if p := public(t, n.Home)[0]; p.Clients != 201 || p.Total != 201 { // the load asks the sink from a socket more
				t.Errorf("status: %+v", p)
			}
			t.Logf("resident memory with 200 clients: agent %d KB, coordinator %d KB", n.Home.Memory()>>10, n.Coordinator.Memory()>>10)
			netns.Eventually(t, 15*time.Second, "all sockets but the spares' to be closed", func() error {
				if p := public(t, n.Home)[0]; p.Clients != 0 || p.Spares != spares {
					return fmt.Errorf("%+v", p)
				}
				return nil
			})
			line := fmt.Sprintf(`"total":201,"active":0,"spare":%d,`, spares)
			netns.Eventually(t, 5*time.Second, "the log to say so", func() error {
				if log := n.Home.Log(); !strings.Contains(log, line) {
					return fmt.Errorf("no %s in\n%s", line, log)
				}
				return nil
			})
			if lines := strings.Count(n.Home.Log(), "public clients"); lines > 25 {
				t.Errorf("the log tells of clients in %d lines", lines)
			}
		})
	}
}

// steadyFor is how long the steady flow runs; RENDEZVOUS_STEADY=60s shows more,
// and takes too long for each run.
func steadyFor(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("RENDEZVOUS_STEADY")
	if text == "" {
		return 10 * time.Second
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatalf("RENDEZVOUS_STEADY: %v", err)
	}
	return d
}

// A steady flow such as RTP is not cut. S3-21
func TestPlainSteadyFlowIsNotCut(t *testing.T) {
	t.Parallel()
	n := open(t, netns.DefaultOptions(), "public: {spares: 1}", publicEcho)
	programs.Sink(n.Scene.Home, sinkAddr)
	var p programs.Pings
	d := steadyFor(t)
	programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", echoDoor, "-size", "172", "-interval", "20ms", "-n", fmt.Sprint(int(d/(20*time.Millisecond)))).Result(&p, d+10*time.Second)
	t.Logf("%d of %d answered, p50 %.1f ms, the longest gap %.0f ms", p.Answered, p.Sent, p.P50/1000, p.LongestGap)
	if p.Answered != p.Sent || p.Duplicates != 0 || p.LongestGap > 500 { // a busy machine delays; what was cut is lost
		t.Errorf("%+v", p)
	}
}

// A killed coordinator and a killed agent come back, and a client that only goes
// on sending is served again.
func TestPlainClientsAreServedAgain(t *testing.T) {
	t.Parallel()
	for name, disturb := range map[string]func(n *programs.Network){
		"the coordinator is killed": func(n *programs.Network) { n.Coordinator.Kill(); n.Coordinator.Restart() },
		"the agent is killed": func(n *programs.Network) {
			n.Home.Kill()
			n.Home.Up("--expose", publicEcho)
		},
		"home's router forgets": func(n *programs.Network) { n.HomeRouter.FlushConntrack() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := open(t, netns.DefaultOptions(), "public: {keepalive: 5s}", publicEcho)
			programs.Sink(n.Scene.Home, sinkAddr)
			stream := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", echoDoor, "-size", "100", "-interval", "20ms", "-n", "600")
			time.Sleep(2 * time.Second) // of a flow that goes well
			disturb(n)
			var p programs.Pings
			stream.Result(&p, 30*time.Second)
			t.Logf("%d of %d answered, the longest pause was %.0f ms", p.Answered, p.Sent, p.LongestGap)
			if p.LongestGap > 6000 || p.Answered < p.Sent/3 {
				t.Errorf("%+v", p)
			}
		})
	}
}

// One WireGuard client moves between the public port and its own agent, and back;
// another agent uses the service all the time.
func TestClientMovesBetweenBothDoors(t *testing.T) {
	t.Parallel()
	n := open(t, netns.DefaultOptions(), "", publicWG, publicEcho)
	programs.Sink(n.Scene.Home, sinkAddr)
	n.Laptop = programs.Join(t, n.Scene.Laptop, n.Dir(), "laptop", n.Home.Do("invite"))
	n.Laptop.Up("--dial", dialWG, "--dial", dialEcho)
	beside := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", loadAddr, "-size", "100", "-interval", "20ms", "-n", "400")
	server, client := plain(n)
	for _, at := range []string{wgDoor, "127.0.0.1:51821", wgDoor, "127.0.0.1:51821"} {
		client.SetPeer(server, at, "10.9.0.1/32")
		if took := n.Scene.Laptop.Ping("10.9.0.1", 10*time.Second); took > 2*time.Second {
			t.Errorf("by %s the first answer took %v", at, took)
		}
		n.Scene.Laptop.Run("ping", "-n", "-q", "-c10", "-i0.05", "10.9.0.1")
	}
	var p programs.Pings
	beside.Result(&p, 20*time.Second)
	if p.Answered != p.Sent {
		t.Errorf("the agent's client had %d of %d answers", p.Answered, p.Sent)
	}
}
