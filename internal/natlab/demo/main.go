//go:build linux

// The program demo shows the whole story on one machine, in network
// namespaces: WireGuard goes through a home's NAT and its carrier's, and
// through a laptop's NAT, none of which lets anybody in. It takes less than
// two minutes and leaves nothing behind.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

func main() {
	bin := flag.String("bin", "bin", "`folder` with rendezvous and agent")
	flag.Parse()
	os.Exit(netns.Main("demo", func(t netns.T) {
		if err := os.Setenv("RDV_BIN", *bin); err != nil {
			t.Fatalf("%v", err)
		}
		show := &demo{T: t, begin: time.Now()}
		show.run()
	}))
}

// demo is the steps, and when they began.
type demo struct {
	netns.T
	begin time.Time
	scene *netns.Scene
}

const picture = `
    home ── router ── carrier (CG-NAT) ──┐              ┌── router ── laptop
    192.168.1.2       198.51.100.1       └── internet ──┘             192.168.2.2
                                                │        198.51.100.129
                                           vps 203.0.113.10
    Each of the three is 20 ms from the others, one way.
`

func (d *demo) run() {
	d.step("An internet of network namespaces, with nftables NATs")
	d.scene = netns.Standard(d.T, netns.DefaultOptions())
	d.say("%s", picture)
	d.nobodyGetsIn()

	d.step("vps: rendezvous serve")
	s := d.scene
	coordinator := programs.Serve(d.T, s.VPS, s.Dir()+"/coordinator", []string{netns.VPSAddr, netns.VPSOtherAddr})
	link := coordinator.Invite()
	d.say("rendezvous invite:  %s", link)

	d.step("home: agent join, agent up --expose wg=udp://127.0.0.1:51820?raw")
	home := programs.Join(d.T, s.Home, s.Dir(), "home", link)
	home.Up("--expose", "wg=udp://127.0.0.1:51820?raw")
	link = home.Do("invite")
	d.say("agent invite:  %s", link)

	d.step("laptop: agent join, agent up --dial home/wg=udp://127.0.0.1:51821")
	laptop := programs.Join(d.T, s.Laptop, s.Dir(), "laptop", link)
	laptop.Up("--dial", "home/wg=udp://127.0.0.1:51821")

	d.step("WireGuard at both ends; the laptop's endpoint is 127.0.0.1:51821")
	server := s.Home.WireGuard("10.9.0.1/24", 51820)
	client := s.Laptop.WireGuard("10.9.0.2/24", 0)
	server.SetPeer(client, "", "10.9.0.2/32")
	client.SetPeer(server, "127.0.0.1:51821", "10.9.0.1/32")
	took := s.Laptop.Ping("10.9.0.1", 10*time.Second)
	d.say("the first ping through it was answered after %v, with WireGuard's handshake and all set-up", took.Round(time.Millisecond))
	d.result(home, laptop)
}

// nobodyGetsIn sends a datagram to the home's public address.
func (d *demo) nobodyGetsIn() {
	s := d.scene
	err := s.VPS.Do(func() error {
		conn, err := net.Dial("udp4", netns.HomePublic+":51820")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("let me in"))
		return err
	})
	if err != nil {
		d.Fatalf("send to the home's public address: %v", err)
	}
	netns.Eventually(d.T, time.Second, "the carrier to drop what nobody asked for", func() error {
		if s.Carrier.Counter("unsolicited").Packets == 0 {
			return fmt.Errorf("nothing came to it")
		}
		return nil
	})
	d.say("a datagram to %s was dropped by the carrier", netip.AddrPortFrom(netip.MustParseAddr(netns.HomePublic), 51820))
}

func (d *demo) result(home, laptop *programs.Agent) {
	d.step("The path between the agents")
	laptop.WaitPath("home", "direct-udp", 10*time.Second)
	home.WaitPath("laptop", "direct-udp", 10*time.Second)
	s := d.scene
	d.step("iperf3 through WireGuard, 5 s of TCP from the laptop to home")
	mbit := s.Iperf3(s.Laptop, s.Home, "10.9.0.1", 5*time.Second)
	d.say("%.0f Mbit/s; IP fragments on all wires: %d", mbit, s.Fragments())
	d.step("home: agent status")
	d.say("%s", home.Do("status"))
	d.step("laptop: agent status")
	d.say("%s", laptop.Do("status"))
	d.step("laptop: ping 10.9.0.1 through WireGuard")
	d.say("%s", strings.TrimSpace(s.Laptop.Run("ping", "-n", "-c3", "-i0.2", "10.9.0.1")))
	d.step(fmt.Sprintf("Done in %v; everything is removed", time.Since(d.begin).Round(time.Second)))
}

func (d *demo) step(what string) { fmt.Printf("\n== %s\n", what) }

func (d *demo) say(format string, args ...any) {
	for line := range strings.Lines(fmt.Sprintf(format, args...)) {
		fmt.Print("   ", strings.TrimRight(line, "\n"), "\n")
	}
}
