//go:build linux

package programs_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// The services of the tests, and where the laptop finds them.
const (
	exposeWG   = "wg=udp://127.0.0.1:51820"
	dialWG     = "home/wg=udp://127.0.0.1:51821"
	exposeEcho = "echo=udp://127.0.0.1:9000"
	dialEcho   = "home/echo=udp://127.0.0.1:9001"
	sinkAddr   = "127.0.0.1:9000"
	loadAddr   = "127.0.0.1:9001"
)

// WireGuard at its default MTU goes through the home's NAT, its carrier's and
// the laptop's, directly and unfragmented.
// S3-03
func TestWireGuardThroughThreeNATs(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"", "?raw"} {
		t.Run("wg"+raw, func(t *testing.T) {
			t.Parallel()
			n := programs.Start(t, netns.DefaultOptions(), exposeWG+raw, dialWG)
			server := n.Scene.Home.WireGuard("10.9.0.1/24", 51820)
			client := n.Scene.Laptop.WireGuard("10.9.0.2/24", 0)
			server.SetPeer(client, "", "10.9.0.2/32")
			client.SetPeer(server, "127.0.0.1:51821", "10.9.0.1/32")

			if took := n.Scene.Laptop.Ping("10.9.0.1", 10*time.Second); took > 3*time.Second {
				t.Errorf("the first ping took %v, want 3 s at most", took)
			}
			n.Laptop.WaitPath("home", "direct-udp", 3*time.Second)
			n.Home.WaitPath("laptop", "direct-udp", 3*time.Second)
			if mbit := n.Iperf3(n.Scene.Laptop, n.Scene.Home, "10.9.0.1", 3*time.Second); mbit < 5 {
				t.Errorf("iperf3 through WireGuard got %.1f Mbit/s", mbit)
			}
			if f := n.Fragments(); f != 0 {
				t.Errorf("%d IP fragments on the wires", f)
			}
		})
	}
}

// Two NATs with address-and-port-dependent mapping on random ports can't be
// punched: data goes by the relay, and both sides say why.
func TestRandomPortsOnBothSidesAreRelayedAndExplained(t *testing.T) {
	t.Parallel()
	o := netns.DefaultOptions()
	o.CarrierNAT, o.LaptopNAT = netns.RandomPorts(), netns.RandomPorts()
	n := programs.Start(t, o, exposeEcho, dialEcho)
	programs.Sink(n.Scene.Home, sinkAddr)
	var p programs.Pings
	programs.Load(t, n.Scene.Laptop, &p, "ping", "-to", loadAddr, "-size", "100", "-n", "500", "-interval", "10ms")
	if p.Answered < p.Sent*9/10 {
		t.Errorf("%d of %d were answered", p.Answered, p.Sent)
	}
	n.Laptop.WaitPath("home", "relay-udp", time.Second)
	netns.Eventually(t, 10*time.Second, "both sides' reasons", func() error {
		return explained(n.Laptop.Explain("home"))
	})
	if err := explained(n.Home.Explain("laptop")); err != nil {
		t.Error(err)
	}
}

func explained(attempts []programs.Attempt) error {
	for _, side := range []string{"local", "remote"} {
		if !slices.ContainsFunc(attempts, func(a programs.Attempt) bool {
			return a.Path == "direct-udp" && a.Side == side && a.Result != "ok" && a.Reason != ""
		}) {
			return errMissing{side, attempts}
		}
	}
	return nil
}

type errMissing struct {
	side     string
	attempts []programs.Attempt
}

func (e errMissing) Error() string {
	var lines []string
	for _, a := range e.attempts {
		lines = append(lines, a.Path+" "+a.Side+" "+a.Result+" "+a.Reason)
	}
	return "no reason of the " + e.side + " side among: " + strings.Join(lines, "; ")
}

// begin starts a network with a sink at home and a direct path to it.
func begin(t *testing.T) *programs.Network {
	t.Helper()
	n := programs.Start(t, netns.DefaultOptions(), exposeEcho, dialEcho)
	programs.Sink(n.Scene.Home, sinkAddr)
	var p programs.Pings
	programs.Load(t, n.Scene.Laptop, &p, "ping", "-to", loadAddr, "-size", "100", "-n", "100", "-interval", "5ms")
	n.Laptop.WaitPath("home", "direct-udp", 3*time.Second)
	n.Home.WaitPath("laptop", "direct-udp", 3*time.Second)
	return n
}

// The coordinator dies by kill -9 in the midst of a transfer: what is direct
// goes on, and both agents are back soon after it is.
func TestCoordinatorDies(t *testing.T) {
	t.Parallel()
	n := begin(t)
	stream := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", loadAddr, "-size", "100", "-n", "600", "-interval", "10ms")
	time.Sleep(time.Second) // of a transfer that goes well
	n.Coordinator.Kill()
	time.Sleep(2 * time.Second) // without a coordinator
	n.Coordinator.Restart()
	n.Laptop.WaitConnected(5 * time.Second)
	n.Home.WaitConnected(5 * time.Second)
	var p programs.Pings
	stream.Result(&p, 15*time.Second)
	t.Logf("the longest pause was %.0f ms; %d of %d were answered", p.LongestGap, p.Answered, p.Sent)
	if p.LongestGap > 300 || p.Answered < p.Sent*99/100 {
		t.Errorf("the stream was interrupted: %+v", p)
	}
	if out, err := n.Laptop.Try("ping", "home", "-c", "1"); err != nil {
		t.Errorf("ping after it all: %s %v", out, err)
	}
}

// What a network may do to a path that is in use. Traffic is back in 2 s.
func TestPathIsBackWithinTwoSeconds(t *testing.T) {
	t.Parallel()
	for name, disturb := range map[string]func(n *programs.Network){
		"home's router forgets":   func(n *programs.Network) { n.HomeRouter.FlushConntrack() },
		"carrier forgets":         func(n *programs.Network) { n.Carrier.FlushConntrack() },
		"laptop's router forgets": func(n *programs.Network) { n.LaptopRouter.FlushConntrack() },
		"laptop has another address": func(n *programs.Network) {
			n.Scene.Laptop.Renumber(netns.ETH, "192.168.2.77/24")
			n.Scene.Laptop.DefaultRoute("192.168.2.1")
		},
		"laptop's router has another public address": func(n *programs.Network) {
			n.LaptopRouter.Renumber(netns.WAN, "198.51.100.130/32")
			n.LaptopRouter.IP("route replace default dev " + netns.WAN + " src 198.51.100.130")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := begin(t)
			stream := programs.StartLoad(t, n.Scene.Laptop, "ping", "-to", loadAddr, "-size", "100", "-n", "400", "-interval", "10ms")
			time.Sleep(time.Second) // of a transfer that goes well
			disturb(n)
			var p programs.Pings
			stream.Result(&p, 15*time.Second)
			t.Logf("the longest pause was %.0f ms; %d of %d were answered", p.LongestGap, p.Answered, p.Sent)
			if p.LongestGap > 2000 {
				t.Errorf("traffic stood still for %.0f ms, want 2000 at most: %+v", p.LongestGap, p)
			}
			n.Laptop.WaitPath("home", "direct-udp", 20*time.Second)
		})
	}
}

// S3-02
func TestTwoHundredClientsGetTheirOwnAnswers(t *testing.T) {
	n := begin(t)
	var c programs.Clients
	programs.Load(t, n.Scene.Laptop, &c, "clients", "-to", loadAddr, "-size", "200", "-n", "200", "-interval", "0")
	if c.Answered != 200 || c.Strange != 0 || c.Sources != 200 {
		t.Errorf("200 clients: %+v", c)
	}
}

// A foreign STUN client understands the coordinator.
func TestForeignSTUNClients(t *testing.T) {
	n := programs.Start(t, netns.Options{Wire: true}, exposeEcho, dialEcho)
	for _, port := range []string{"443", "3478"} {
		out := n.Scene.Laptop.Overhear(time.Second, "turnutils_stunclient", "-p", port, netns.VPSAddr)
		if !strings.Contains(out, "UDP reflexive addr: "+netns.LaptopPublic) {
			t.Errorf("turnutils_stunclient on port %s: %s", port, out)
		}
	}
	out := n.Scene.Laptop.Run("turnutils_natdiscovery", "-m", "-p", "3478", netns.VPSAddr)
	if !strings.Contains(out, "Endpoint Independent Mapping") {
		t.Errorf("turnutils_natdiscovery: %s", out)
	}
}
