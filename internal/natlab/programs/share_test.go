//go:build linux

package programs_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// shareConfig shares the VPS's ports with a website, sshd and four OpenVPNs, of
// both kinds of keys over both transports.
const shareConfig = `
share:
  inspect: 1s
  backends:
    website: {tcp: "127.0.0.1:8443", proxy: true}
    sshd: {tcp: "127.0.0.1:22"}
    vpn-crypt: {udp: "127.0.0.1:1194", tcp: "127.0.0.1:1194"}
    vpn-plain: {udp: "127.0.0.1:1195", tcp: "127.0.0.1:1195"}
  tcp:
    - {is: tls, names: www.example.org, to: website}
    - {is: ssh, to: sshd}
    - {is: openvpn, keys: tls-crypt, to: vpn-crypt}
    - {is: openvpn, keys: none, to: vpn-plain}
    - {is: silence, to: sshd}
  udp:
    - {is: openvpn, keys: tls-crypt, to: vpn-crypt}
    - {is: openvpn, keys: none, to: vpn-plain}
`

// tosTable rewrites the ToS byte of all that is forwarded to 0x48, as a
// provider did to somebody.
const tosTable = `table ip tos_lab {
 chain forward {
  type filter hook forward priority mangle; policy accept;
  ip dscp set 0x12 counter
 }
}
`

// sharedPort is the standard scene with all of that on the VPS, one agent
// without UDP and one with.
type sharedPort struct {
	*programs.Network
	vpns []*netns.VPN
	ssh  []string
}

// VPNs of the test, by number.
var vpnKinds = []struct {
	proto string
	crypt bool
	port  uint16
}{{"udp", true, 1194}, {"udp", false, 1195}, {"tcp", true, 1194}, {"tcp", false, 1195}}

func openSharedPort(t *testing.T, more string) *sharedPort {
	t.Helper()
	o := netns.DefaultOptions()
	o.CarrierNAT = netns.CarrierGrade(20000, 20999).DropUDP()
	n := &sharedPort{Network: &programs.Network{Scene: netns.Standard(t, o)}}
	n.LaptopRouter.NFT(tosTable)
	n.VPS.Nginx("127.0.0.1:8443", true, "www.example.org")
	_, n.ssh = n.VPS.SSHD("127.0.0.1:22")
	for i, k := range vpnKinds {
		v := n.OpenVPN(i, k.proto, k.crypt)
		v.Serve(n.VPS, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), k.port))
		n.vpns = append(n.vpns, v)
	}
	config := filepath.Join(n.Dir(), "rendezvous.yaml")
	if err := os.WriteFile(config, []byte(shareConfig+more), 0o600); err != nil {
		t.Fatal(err)
	}
	n.Coordinator = programs.Serve(t, n.VPS, filepath.Join(n.Dir(), "coordinator"), []string{netns.VPSAddr, netns.VPSOtherAddr}, "--config", config)
	n.Home = programs.Join(t, n.Scene.Home, n.Dir(), "home", n.Coordinator.Invite())
	n.Home.Up("--expose", exposeEcho)
	n.Laptop = programs.Join(t, n.Scene.Laptop, n.Dir(), "laptop", n.Home.Do("invite"))
	n.Laptop.Up("--dial", dialEcho)
	return n
}

// use has all of them used from the laptop at once, each at a port of the VPS.
func (n *sharedPort) use(t *testing.T, port func() uint16) {
	t.Helper()
	var clients sync.WaitGroup
	defer clients.Wait()
	at := func() netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr(netns.VPSAddr), port()) }
	for range 5 {
		to := at()
		clients.Go(func() {
			out, err := n.Scene.Laptop.Try("curl", "-sk", "-m", "10", "--resolve", fmt.Sprintf("www.example.org:%d:%s", to.Port(), to.Addr()),
				fmt.Sprintf("https://www.example.org:%d/", to.Port()))
			if want := "website " + netns.LaptopPublic + "\n"; err != nil || out != want {
				t.Errorf("curl at %v got %q, %v; want %q", to, out, err, want)
			}
		})
		to2 := at()
		clients.Go(func() {
			args := append([]string{"ssh", "-p", fmt.Sprint(to2.Port())}, n.ssh...)
			out, err := n.Scene.Laptop.Try(append(args, "root@"+to2.Addr().String(), "echo", "here we are")...)
			if err != nil || out != "here we are\n" {
				t.Errorf("ssh at %v got %q, %v", to2, out, err)
			}
		})
	}
	var tunnels []*netns.Process
	for _, v := range n.vpns {
		tunnels = append(tunnels, v.Start(n.Scene.Laptop, at()))
	}
	for i, v := range n.vpns {
		tunnels[i].WaitLog("Initialization Sequence Completed", 25*time.Second)
		n.Scene.Laptop.Ping(v.Server, 10*time.Second)
	}
	var p programs.Pings
	programs.Load(t, n.Scene.Laptop, &p, "ping", "-to", loadAddr, "-size", "100", "-n", "200", "-interval", "5ms")
	if p.Answered < p.Sent*9/10 {
		t.Errorf("%d of %d pings between the agents were answered", p.Answered, p.Sent)
	}
	for i := range tunnels {
		if !tunnels[i].Running() {
			t.Errorf("tunnel %d has ended", i)
		}
		tunnels[i].Stop()
	}
}

// A website, sshd, four OpenVPNs and both agents, one of which has no UDP, all
// on port 443 at once, though a router rewrites the ToS byte.
// S2-06, S2-07, S2-09, S2-10
func TestOnePortForAll(t *testing.T) {
	t.Parallel()
	n := openSharedPort(t, "")
	programs.Sink(n.Scene.Home, sinkAddr)
	n.use(t, func() uint16 { return 443 })
	st := n.VPS.Run("rendezvous", "status", "--state", filepath.Join(n.Dir(), "coordinator"))
	t.Logf("%s", st)
	if s := n.Home.Status().Coordinator.Transport; s == "quic" {
		t.Errorf("home's control connection goes over %q, though it has no UDP", s)
	}
	if s := n.Laptop.Status().Coordinator.Transport; s != "quic" {
		t.Errorf("laptop's control connection goes over %q", s)
	}
	if c := n.LaptopRouter.Run("nft", "list", "table", "ip", "tos_lab"); strings.Contains(c, "packets 0 ") {
		t.Errorf("nothing was rewritten: %s", c)
	}
}

// The same on ports that nobody chose, all of which lead to the coordinator.
// S2-06, S2-15
func TestAnyPortForAll(t *testing.T) {
	t.Parallel()
	n := openSharedPort(t, "stripe: {apply: true}\n")
	programs.Sink(n.Scene.Home, sinkAddr)
	luck := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	n.use(t, func() uint16 { return 2000 + uint16(luck.IntN(20000)) })
}

// Agents that joined by a link with a veil: tshark finds no QUIC between them and
// the coordinator, and finds it where there is none. The agent that the first
// one invites has it too.
// S2-12
func TestVeiledAgents(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"veiled": {"--veil"}, "in the clear": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := programs.Situation{Options: netns.DefaultOptions()}.Open(t)
			capture := programs.Listen(t, n.Scene, n.VPS, netns.WAN, "udp port 443")
			n.Home = programs.Join(t, n.Scene.Home, n.Dir(), "home", n.Coordinator.Invite(args...))
			n.Home.Up("--expose", exposeEcho)
			n.Laptop = programs.Join(t, n.Scene.Laptop, n.Dir(), "laptop", n.Home.Do("invite"))
			n.Laptop.Up("--dial", dialEcho)
			n.Reach(t, sinkAddr, loadAddr, "direct-udp")
			capture.Close()
			for _, a := range []*programs.Agent{n.Home, n.Laptop} {
				if c := a.Status().Coordinator; c.Transport != "quic" {
					t.Errorf("%s is connected over %q", a.Name, c.Transport)
				}
			}
			const handshake = "udp.port == 443 && quic.header_form == 1 && quic.version == 1"
			if seen := capture.Count(handshake); (seen == 0) != (args != nil) {
				t.Errorf("tshark sees %d handshakes of QUIC:\n%s", seen, capture.Show(handshake))
			}
		})
	}
}
