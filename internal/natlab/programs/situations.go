//go:build linux

package programs

import (
	"path/filepath"
	"strings"
	"time"

	"rendezvous/internal/natlab/hop"
	"rendezvous/internal/natlab/netns"
)

// Situation is a network in which two agents have to find a path.
type Situation struct {
	Name    string // as docs/PATHS.md calls it
	Options netns.Options
	// Arrange adds to the scene what Options can't say, before any agent
	// starts, and says how the agents run.
	Arrange func(s *netns.Scene) (home, laptop netns.Guise)
	// Best is the path that each side should end on.
	Paths        string   // that the agents are allowed; "" for all
	Flags        []string // more of both agents'
	Home, Laptop string
	Luck         string // a better one that both have where instants meet; "" for none
	Slow         bool   // left to `make paths`
}

// Start builds the situation and joins both agents to one network. expose is
// what home offers ("wg=udp://127.0.0.1:51820"), dial where the laptop listens
// for it ("home/wg=udp://127.0.0.1:51821").
func (x Situation) Start(t netns.T, expose, dial string) *Network {
	t.Helper()
	n := x.Open(t)
	s, dir := n.Scene, n.Dir()
	n.Home = JoinAs(t, s.Home, n.guises[0], dir, "home", n.Coordinator.Invite())
	n.Home.Up(x.allow("--expose", expose)...)
	n.Laptop = JoinAs(t, s.Laptop, n.guises[1], dir, "laptop", n.Home.Do("invite"))
	n.Laptop.Up(x.allow("--dial", dial)...)
	return n
}

func (x Situation) allow(args ...string) []string {
	args = append(args, x.Flags...)
	if x.Paths == "" {
		return args
	}
	return append(args, "--paths", x.Paths)
}

// Open builds the situation with its coordinator, and no agent yet.
func (x Situation) Open(t netns.T) *Network {
	t.Helper()
	n := &Network{Scene: netns.Standard(t, x.Options)}
	if x.Arrange != nil {
		n.guises[0], n.guises[1] = x.Arrange(n.Scene)
	}
	n.Coordinator = Serve(t, n.VPS, filepath.Join(n.Dir(), "coordinator"), []string{netns.VPSAddr, netns.VPSOtherAddr}, "--ports", "80")
	return n
}

// Pair joins two agents more that may use one kind of path alone. The home's exposes, the laptop's listens at an address
// for the one service.
func (n *Network) Pair(t netns.T, kind, expose, listen string) (home, laptop *Agent) {
	t.Helper()
	service, _, _ := strings.Cut(expose, "=")
	var link string
	if len(n.Pairs) == 0 {
		link = n.Coordinator.Invite()
	} else {
		link = n.Pairs[0][0].Do("invite") // who makes the network's secret
	}
	home = JoinAs(t, n.Scene.Home, n.guises[0], n.Dir(), "home-"+kind, link)
	home.Up("--expose", expose, "--paths", kind)
	laptop = JoinAs(t, n.Scene.Laptop, n.guises[1], n.Dir(), "laptop-"+kind, home.Do("invite"))
	laptop.Up("--dial", home.Name+"/"+service+"="+listen, "--paths", kind)
	n.Pairs = append(n.Pairs, [2]*Agent{home, laptop})
	return home, laptop
}

// Names of paths.
const (
	directUDP, directFakeTCP, directTCP = "direct-udp", "direct-faketcp", "direct-tcp"
	relayUDP, relayFakeTCP, relayTLS    = "relay-udp", "relay-faketcp", "relay-tls"
)

// Situations are those of docs/PATHS.md, in its order.
func Situations() []Situation {
	masquerade, carrier := netns.Masquerade(), netns.CarrierGrade(20000, 20999)
	return []Situation{
		{Name: "nothing is blocked", Slow: true, Options: netns.DefaultOptions(), Home: directUDP, Laptop: directUDP},
		{Name: "UDP dropped at the laptop", Options: laptopNAT(masquerade.DropUDP()), Home: directFakeTCP, Laptop: directFakeTCP},
		{Name: "UDP dropped at both", Slow: true, Options: noUDP(), Home: directFakeTCP, Laptop: directFakeTCP},
		{Name: "only TCP 80 and 443 out, at the laptop", Slow: true, Options: laptopNAT(masquerade.OnlyWeb()), Home: relayUDP, Laptop: relayFakeTCP},
		{Name: "only TCP 80 and 443 out, at both", Options: bothNAT(masquerade.OnlyWeb(), carrier.OnlyWeb()), Home: relayFakeTCP, Laptop: relayFakeTCP},
		{Name: "sequence numbers rewritten at the laptop, UDP dropped", Slow: true, Options: noUDP(), Arrange: boxes("laptoprouter"), Home: directFakeTCP, Laptop: directFakeTCP},
		{Name: "sequence numbers rewritten at both, UDP dropped", Options: noUDP(), Arrange: boxes("laptoprouter", "carrier"), Home: directFakeTCP, Laptop: directFakeTCP},
		{Name: "split-TCP proxy at the laptop, UDP dropped", Options: noUDP(), Arrange: splitTCP, Home: relayFakeTCP, Laptop: relayTLS, Luck: directTCP},
		{Name: "NATs answer the early SYN by RST, UDP dropped", Options: resetting(), Home: directFakeTCP, Laptop: directFakeTCP},
		{Name: "NATs drop the early SYN, UDP dropped", Slow: true, Options: dropping(), Home: directFakeTCP, Laptop: directFakeTCP},
		{Name: "only a CONNECT proxy, at the laptop", Options: laptopNAT(masquerade.OnlyRouter()), Arrange: connectProxy, Home: relayUDP, Laptop: relayTLS},
		{Name: "agents without CAP_NET_RAW, UDP dropped", Options: dropping(), Arrange: unprivileged, Home: directTCP, Laptop: directTCP},
		{Name: "agents without CAP_NET_RAW, NATs answer by RST, UDP dropped", Options: resetting(), Arrange: unprivileged, Home: directTCP, Laptop: directTCP},
	}
}

// UDPDroppedAtLaptop is the situation with no UDP at one side.
func UDPDroppedAtLaptop() Situation { return Situations()[1] }

// UDPDropped is the situation without UDP at both sides, with a link of one's
// own.
func UDPDropped(change func(o *netns.Options)) Situation {
	o := noUDP()
	if change != nil {
		change(&o)
	}
	return Situation{Name: "UDP dropped at both", Options: o, Home: directFakeTCP, Laptop: directFakeTCP}
}

// WithoutRawSockets is a situation where no agent may open raw sockets, behind
// two NATs of a kind.
func WithoutRawSockets(nat netns.NAT) Situation {
	o := laptopNAT(nat)
	o.HomeNAT, o.NoCarrier = nat, true
	return Situation{Name: "agents without CAP_NET_RAW", Options: o, Arrange: unprivileged, Home: relayTLS, Laptop: relayTLS}
}

func laptopNAT(n netns.NAT) netns.Options {
	o := netns.DefaultOptions()
	o.LaptopNAT = n
	return o
}

func bothNAT(laptop, carrier netns.NAT) netns.Options {
	o := laptopNAT(laptop)
	o.CarrierNAT = carrier
	return o
}

func noUDP() netns.Options {
	return bothNAT(netns.Masquerade().DropUDP(), netns.CarrierGrade(20000, 20999).DropUDP())
}

// dropping are two NATs that are silent to a SYN that nobody asked for.
func dropping() netns.Options {
	o := laptopNAT(netns.Masquerade().DropUDP())
	o.HomeNAT, o.NoCarrier = netns.Masquerade().DropUDP(), true
	return o
}

// resetting are two NATs that answer it. Unlike distances make one side's SYN
// come early.
func resetting() netns.Options {
	o := laptopNAT(netns.Masquerade().DropUDP().AcceptingInput())
	o.HomeNAT, o.NoCarrier = netns.Masquerade().DropUDP().AcceptingInput(), true
	o.VPSHome = 60 * time.Millisecond
	return o
}

// boxes puts something at each of these ports that draws other sequence
// numbers for each flow.
func boxes(ports ...string) func(s *netns.Scene) (home, laptop netns.Guise) {
	return func(s *netns.Scene) (home, laptop netns.Guise) {
		for _, p := range ports {
			s.SetBoxes(p, &hop.Renumber{})
		}
		return home, laptop
	}
}

func splitTCP(s *netns.Scene) (home, laptop netns.Guise) {
	s.LaptopRouter.SplitTCP()
	return home, laptop
}

func connectProxy(s *netns.Scene) (home, laptop netns.Guise) {
	url, _ := s.LaptopRouter.Tinyproxy("192.168.2.1", 8888, 443)
	laptop.Environment = []string{"HTTPS_PROXY=" + url}
	return home, laptop
}

func unprivileged(*netns.Scene) (home, laptop netns.Guise) {
	return netns.Guise{Unprivileged: true}, netns.Guise{Unprivileged: true}
}
