//go:build linux

package main

import (
	"fmt"
	"os"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// tcpWay leads one TCP connection of the laptop's to home.
type tcpWay struct {
	name       string
	bind, addr string // where the server listens, and where the client finds it
	up, down   []float64
}

// tunModes sets the TCP of TUN devices beside wireguard-go's, all between the
// same two NATs.
func tunModes(t netns.T, r *report, runs int) {
	const seconds = 3
	wantMbit, wantShare := 1000.0, 0.5
	n := programs.Start(t, netns.Options{
		Wire: true,
		CarrierNAT: netns.Masquerade().Publish("udp", 4000, netns.HomeWAN+":4000").Publish("udp", 51820, netns.HomeWAN+":51820").
			Publish("tcp", 5201, netns.HomeWAN+":5201"),
		HomeNAT: netns.Masquerade().Publish("udp", 4000, netns.HomeAddr+":4000").Publish("udp", 51820, netns.HomeAddr+":51820").
			Publish("tcp", 5201, netns.HomeAddr+":5201"),
	}, "echo=udp://127.0.0.1:9000", "home/echo=udp://127.0.0.1:9001")
	home, laptop := n.Scene.Home, n.Scene.Laptop

	server, client := home.WireGuard("10.9.0.1/24", 51820), laptop.WireGuard("10.9.0.2/24", 0)
	server.SetPeer(client, "", "10.9.0.2/32")
	client.SetPeer(server, netns.HomePublic+":51820", "10.9.0.1/32")
	const inside = "10.77.0.1"
	programs.PlainTun(home, "--listen-port", "4000", "--bind-to-interface", netns.ETH, "--addresses", "10.77.0.0/24")
	n.Home.Tun("--expose")
	n.Laptop.Tun("--peer", "home")
	ways := []*tcpWay{
		{name: "kernel alone, port forwarded", bind: netns.HomeAddr, addr: netns.HomePublic},
		{name: "wireguard-go", bind: "10.9.0.1", addr: "10.9.0.1"},
		{name: "tun, plain", bind: inside, addr: netns.HomePublic},
		{name: "tun, session", bind: programs.TunOwn, addr: programs.TunPeer},
	}
	for i := range runs {
		for _, w := range ways {
			fmt.Fprintf(os.Stderr, "run %d of %d: %s\n", i+1, runs, w.name)
			w.measure(n, seconds*time.Second)
		}
	}
	r.line("iperf3, one connection from the laptop to home, %d s, median, Mbit/s; no delay, MTU 1500.", seconds)
	r.line("")
	r.line("| way | to home | from home |")
	r.line("|---|---|---|")
	for _, w := range ways {
		r.line("| %s | %.0f | %.0f |", w.name, median(w.up), median(w.down))
	}
	r.line("")
	for _, w := range ways[2:] {
		got, other := median(w.up), median(ways[1].up)
		r.target(got >= wantMbit || got >= wantShare*other, w.name, fmt.Sprintf("%.0f Mbit/s, %.2f of wireguard-go's", got, got/other),
			fmt.Sprintf("at least %.0f Mbit/s or %.1f of wireguard-go's", wantMbit, wantShare))
	}
}

func (w *tcpWay) measure(n *programs.Network, d time.Duration) {
	if w.name == "tun, plain" {
		// Its route takes all that leads to home's public address, so it is
		// there for its own turn alone.
		p := programs.PlainTun(n.Scene.Laptop, "--listen-port", "4000", "--bind-to-interface", netns.ETH, "--endpoint-port", "4000",
			"--route", netns.HomePublic+"/32", "--addresses", "10.78.0.0/24")
		defer p.Stop()
	}
	w.up = append(w.up, n.Iperf3By(n.Scene.Laptop, n.Scene.Home, w.bind, w.addr, d))
	w.down = append(w.down, n.Iperf3By(n.Scene.Laptop, n.Scene.Home, w.bind, w.addr, d, "-R"))
}
