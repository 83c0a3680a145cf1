//go:build linux

package programs

import (
	"fmt"
	"time"

	"rendezvous/internal/natlab/netns"
)

// Addresses of WireGuard's devices inside, and where the laptop's agent
// listens for it.
const (
	InsideHome   = "10.9.0.1"
	InsideLaptop = "10.9.0.2"
	exposeInside = "wg=udp://127.0.0.1:51820?raw"
	dialInside   = "home/wg=udp://127.0.0.1:51821"
)

// Journey is what WireGuard had of a situation.
type Journey struct {
	FirstAnswer  time.Duration // from the first datagram; 0: none came
	Best         time.Duration // from the first datagram to both sides' last path; 0: not the expected one
	Home, Laptop string        // the paths in the end
	Ways         [2]string     // by which home and laptop were connected to the coordinator
	Mbit         float64       // of a TCP connection through WireGuard
	Resets       uint64        // RST segments that the kernels of home, laptop and vps have sent
	Explained    []Attempt     // by the laptop
}

// idleFor lets agents that have just registered become idle ones: a path is
// needed for a client's first datagram, not at the agent's start.
const idleFor = time.Second

// patience is how long the best path may take.
const patience = 15 * time.Second

// Travel starts the situation, sets WireGuard up over it and sends a TCP
// connection through it for a time.
func (x Situation) Travel(t netns.T, load time.Duration) (*Network, Journey) {
	t.Helper()
	n := x.Start(t, exposeInside, dialInside)
	n.ConnectWireGuard()
	time.Sleep(idleFor)
	var j Journey
	begin := time.Now()
	j.FirstAnswer = n.Scene.Laptop.Ping(InsideHome, patience)
	keep := n.Scene.Laptop.Start("ping", "-n", "-q", "-i0.2", InsideHome)
	best := n.settle(x.Home, x.Laptop, begin)
	if load > 0 {
		j.Mbit = n.Iperf3(n.Scene.Laptop, n.Scene.Home, InsideHome, load)
	}
	keep.Stop()
	j.Home, j.Laptop = n.paths()
	if j.Home == x.Home && j.Laptop == x.Laptop {
		j.Best = best
	}
	j.Ways = [2]string{n.Home.Status().Coordinator.Transport, n.Laptop.Status().Coordinator.Transport}
	for _, h := range []*netns.Host{n.Scene.Home, n.Scene.Laptop, n.VPS} {
		j.Resets += h.Counter("resets").Packets
	}
	j.Explained = n.Laptop.Explain("home")
	return n, j
}

// ConnectWireGuard starts WireGuard at home, behind the service wg, and on the
// laptop, whose endpoint is the dial of it.
func (n *Network) ConnectWireGuard() {
	server := n.Scene.Home.WireGuard(InsideHome+"/24", 51820)
	client := n.Scene.Laptop.WireGuard(InsideLaptop+"/24", 0)
	server.SetPeer(client, "", InsideLaptop+"/32")
	client.SetPeer(server, "127.0.0.1:51821", InsideHome+"/32")
}

// settle waits until both sides have the paths that are expected, or patience
// ends, and gives the time since begin.
func (n *Network) settle(home, laptop string, begin time.Time) time.Duration {
	for {
		gotHome, gotLaptop := n.paths()
		took := time.Since(begin)
		if gotHome == home && gotLaptop == laptop || took > patience {
			return took
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// paths are those that home and laptop use now, "" for none.
func (n *Network) paths() (home, laptop string) {
	if p, err := n.Home.Peer("laptop"); err == nil {
		home = p.Path
	}
	if p, err := n.Laptop.Peer("home"); err == nil {
		laptop = p.Path
	}
	return home, laptop
}

// Arrived says whether both sides ended on the paths that the situation
// allows; the error says what was tried.
func (x Situation) Arrived(j Journey) error {
	lucky := x.Luck != "" && j.Home == x.Luck && j.Laptop == x.Luck
	if j.Home == x.Home && j.Laptop == x.Laptop || lucky {
		return nil
	}
	return fmt.Errorf("home is on %q and the laptop on %q, want %q and %q; the laptop explains: %+v", j.Home, j.Laptop, x.Home, x.Laptop, j.Explained)
}
