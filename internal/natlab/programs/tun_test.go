//go:build linux

package programs_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// tunPort is the UDP port of both sides, and webPort where a web server is.
const (
	tunPort = "4000"
	webPort = "8000"
)

// serveWeb answers GET on a host: / with the client's address, /N with N bytes,
// /slow with 4 MB in 4 s.
func serveWeb(t *testing.T, h *netns.Host) {
	t.Helper()
	var listener net.Listener
	err := h.Do(func() (err error) {
		listener, err = net.Listen("tcp", ":"+webPort)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if n, err := fmt.Sscan(strings.Trim(r.URL.Path, "/"), new(int)); n == 1 && err == nil {
			size := 0
			_, _ = fmt.Sscan(strings.Trim(r.URL.Path, "/"), &size)
			_, _ = w.Write(bytes.Repeat([]byte{'x'}, size))
			return
		}
		_, _ = fmt.Fprint(w, r.RemoteAddr)
	})
	mux.HandleFunc("/slow", func(w http.ResponseWriter, _ *http.Request) {
		for range 40 {
			_, _ = w.Write(bytes.Repeat([]byte{'y'}, 100_000))
			time.Sleep(100 * time.Millisecond)
		}
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
}

// get is what curl gets from the web server at an address.
func get(t *testing.T, h *netns.Host, addr, what string) string {
	t.Helper()
	if netip.MustParseAddr(addr).Is6() {
		addr = "[" + addr + "]"
	}
	return h.Run("curl", "-sS", "--globoff", "--fail", "--max-time", "15", "http://"+addr+":"+webPort+"/"+what)
}

// seen is as whom a host is seen by the web server at an address.
func seen(t *testing.T, h *netns.Host, addr string) netip.Addr {
	t.Helper()
	at, err := netip.ParseAddrPort(get(t, h, addr, ""))
	if err != nil {
		t.Fatal(err)
	}
	return at.Addr()
}

// Two clients behind NATs, one of them behind its carrier's too, reach a server
// in the form of the wire that the original speaks.
// S1-01, S1-02, S1-03, S1-05, S1-07, S1-09, S1-15
func TestPlainTun(t *testing.T) {
	t.Parallel()
	s := netns.Standard(t, netns.Options{Wire: true, IPv6: true})
	programs.PlainTun(s.VPS, "--listen-port", tunPort, "--bind-to-interface", netns.WAN)
	serveWeb(t, s.VPS)
	client := []string{"--listen-port", "5555", "--bind-to-interface", netns.ETH, "--endpoint-port", tunPort,
		"--route", netns.VPSAddr + "/32", "--route", netns.VPSIPv6 + "/128", "--addresses", "10.77.0.0/24,fd77::/64"}
	laptop := programs.PlainTun(s.Laptop, client...)
	programs.PlainTun(s.Home, client...)
	wire := programs.Listen(t, s, s.Laptop, netns.ETH, "udp")

	inside := netip.MustParsePrefix("198.19.0.0/16")
	byLaptop, byHome := seen(t, s.Laptop, netns.VPSAddr), seen(t, s.Home, netns.VPSAddr)
	if !inside.Contains(byLaptop) || !inside.Contains(byHome) || byLaptop == byHome {
		t.Errorf("the laptop is seen as %v and home as %v, want two of %v", byLaptop, byHome, inside)
	}
	if again := seen(t, s.Laptop, netns.VPSAddr); again != byLaptop {
		t.Errorf("the laptop is seen as %v and then as %v", byLaptop, again)
	}
	if by6 := seen(t, s.Laptop, netns.VPSIPv6); !netip.MustParsePrefix("fd72:6476:7475:6e00::/64").Contains(by6) {
		t.Errorf("over IPv6 the laptop is seen as %v", by6)
	}
	if got := get(t, s.Home, netns.VPSAddr, "3000000"); len(got) != 3000000 {
		t.Errorf("%d bytes came of 3,000,000", len(got))
	}
	wire.Close()
	if n := wire.Count("udp.srcport != 5555 && udp.srcport != " + tunPort); n != 0 {
		t.Errorf("%d datagrams from another port", n)
	}
	if mbit := s.Iperf3By(s.Laptop, s.VPS, programs.TunOwn, netns.VPSAddr, time.Second); mbit < 100 {
		t.Errorf("iperf3 got %.1f Mbit/s", mbit)
	}
	if f := s.Fragments(); f != 0 {
		t.Errorf("%d fragments", f)
	}
	s.Laptop.Run("sh", "-c", "ping -c1 -W1 "+netns.VPSAddr+" || true") // is not TCP
	laptop.Stop()
	if log := laptop.Log(); !strings.Contains(log, `"not_tcp"`) {
		t.Errorf("at its end it says %s", log)
	}
}

// Of two ways to the internet it takes the one that is named, though all else
// goes by the other.
// S1-02
func TestPlainTunByAnotherWAN(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	const wwan, mobileAddr = "wwan1", "192.0.2.1"
	mobile := s.Public("mobile", "192.0.2.0/24", mobileAddr)
	s.Wire(mobile, netns.LAN, s.Laptop, wwan)
	mobile.Address(netns.LAN, "192.168.3.1/24")
	mobile.SetNAT(netns.Masquerade(), netns.WAN, netns.LAN, mobileAddr)
	s.Laptop.Address(wwan, "192.168.3.2/24")
	s.Laptop.IP("route add default via 192.168.3.1 dev " + wwan + " metric 1000")
	programs.PlainTun(s.VPS, "--listen-port", tunPort, "--bind-to-interface", netns.WAN)
	serveWeb(t, s.VPS)
	programs.PlainTun(s.Laptop, "--listen-port", tunPort, "--bind-to-interface", wwan, "--endpoint-port", tunPort, "--route", netns.VPSAddr+"/32")
	wire := programs.Listen(t, s, s.VPS, netns.WAN, "udp")
	get(t, s.Laptop, netns.VPSAddr, "10000")
	wire.Close()
	if by := wire.Count("ip.src == " + mobileAddr); by == 0 {
		t.Error("nothing came by the interface that was named")
	}
	if by := wire.Count("ip.src == " + netns.LaptopPublic); by != 0 {
		t.Errorf("%d datagrams came by the other one", by)
	}
}

// What leaves as UDP payload is the TCP segment, byte for byte, and costs 8
// bytes more than the packet. Without offload a capture sees what crosses and
// not what the kernel leaves to others.
// S1-06, S1-08
func TestPlainTunOnTheWire(t *testing.T) {
	t.Parallel()
	s := netns.Standard(t, netns.Options{Wire: true})
	plain := netns.Guise{Environment: []string{"RENDEZVOUS_NO_OFFLOAD=1"}}
	programs.PlainTunAs(s.VPS, plain, "--listen-port", tunPort, "--bind-to-interface", netns.WAN)
	serveWeb(t, s.VPS)
	programs.PlainTunAs(s.Laptop, plain, "--listen-port", tunPort, "--bind-to-interface", netns.ETH, "--endpoint-port", tunPort, "--route", netns.VPSAddr+"/32")
	device := programs.Listen(t, s, s.Laptop, "tcp0", "tcp and dst host "+netns.VPSAddr)
	wire := programs.Listen(t, s, s.Laptop, netns.ETH, "udp and dst host "+netns.VPSAddr)
	arrived := programs.Listen(t, s, s.VPS, "tcp0", "tcp and dst host "+programs.TunOwn)
	if got := get(t, s.Laptop, netns.VPSAddr, "100000"); len(got) != 100000 {
		t.Errorf("%d bytes came", len(got))
	}
	for _, c := range []*programs.Capture{device, wire, arrived} {
		c.Close()
	}
	packets, datagrams := device.Packets(), wire.Packets()
	if len(packets) < 5 || len(packets) != len(datagrams) {
		t.Fatalf("%d packets left as %d datagrams", len(packets), len(datagrams))
	}
	for i, p := range packets {
		segment, payload := p[20:], datagrams[i][28:]
		if !bytes.Equal(segment, payload) {
			t.Errorf("packet %d:\n%x\nleft as\n%x", i, segment, payload)
		}
		if len(datagrams[i]) != len(p)+8 {
			t.Errorf("packet %d of %d bytes costs %d", i, len(p), len(datagrams[i]))
		}
	}
	if n := len(arrived.Packets()); n != len(packets) {
		t.Errorf("%d packets arrived, of %d", n, len(packets))
	}
}

// Both ends with one port, without a table, known by their real addresses.
// S1-10
func TestPlainTunBetweenEquals(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	const otherAddr = "192.0.2.1"
	other := s.Public("other", "192.0.2.0/24", otherAddr)
	for h, peer := range map[*netns.Host]string{s.VPS: otherAddr, other: netns.VPSAddr} {
		programs.PlainTun(h, "--listen-port", tunPort, "--bind-to-interface", netns.WAN, "--endpoint-port", tunPort, "--route", peer+"/32")
		serveWeb(t, h)
	}
	if by := seen(t, other, netns.VPSAddr); by.String() != otherAddr {
		t.Errorf("%s is seen as %v", otherAddr, by)
	}
	if by := seen(t, s.VPS, otherAddr); by.String() != netns.VPSAddr {
		t.Errorf("%s is seen as %v", netns.VPSAddr, by)
	}
}

// Home's TCP over the session, through both NATs and home's carrier's. The NAT
// on the laptop's side and its address change, in the midst of a download: the
// connection goes on, and home sees the laptop as the one it was. What
// authenticates leaves by the port that data leaves by.
// S1-11, S1-12, S1-13, S1-15, S1-16
func TestTunOverTheSession(t *testing.T) {
	t.Parallel()
	n := programs.Start(t, netns.DefaultOptions(), exposeEcho, dialEcho)
	wire := programs.Listen(t, n.Scene, n.Scene.Laptop, netns.ETH, "udp")
	home := n.Home.Tun("--expose")
	laptop := n.Laptop.Tun("--peer", "home")
	serveWeb(t, n.Scene.Home)
	road := n.Scene.Laptop

	first, first6 := seen(t, road, programs.TunPeer), seen(t, road, programs.TunPeer6)
	if first.String() != programs.TunPeer || first6.String() != programs.TunPeer6 {
		t.Errorf("the laptop is seen as %v and %v", first, first6)
	}
	n.Laptop.WaitPath("home", "direct-udp", 5*time.Second)
	get(t, road, programs.TunPeer, "100000")
	wire.Close()
	onePort(t, wire)
	type answer struct {
		body string
		err  error
	}
	slow := make(chan answer)
	go func() {
		body, err := road.Try("curl", "-sS", "--max-time", "40", "http://"+programs.TunPeer+":"+webPort+"/slow")
		slow <- answer{body, err}
	}()
	time.Sleep(time.Second) // of a download that goes well
	n.LaptopRouter.Renumber(netns.WAN, "198.51.100.130/32")
	n.LaptopRouter.IP("route replace default dev " + netns.WAN + " src 198.51.100.130")
	n.LaptopRouter.FlushConntrack()
	if got := <-slow; got.err != nil || len(got.body) != 4_000_000 {
		t.Errorf("%d bytes of the download came: %v", len(got.body), got.err)
	}
	if again := seen(t, road, programs.TunPeer); again != first {
		t.Errorf("the laptop is seen as %v, and was %v", again, first)
	}
	// A new session, and so a new flow: home's agent has forgotten everything.
	n.Home.Kill()
	n.Home.Up("--expose", exposeEcho)
	netns.Eventually(t, 40*time.Second, "home to be reached again", func() error {
		out, err := road.Try("curl", "-sS", "--max-time", "5", "http://"+programs.TunPeer+":"+webPort+"/")
		if err == nil && !strings.HasPrefix(out, first.String()+":") {
			err = fmt.Errorf("the laptop is seen as %s, and was %v", out, first)
		}
		return err
	})
	// Home can begin too.
	serveWeb(t, road)
	if by := seen(t, n.Scene.Home, first.String()); by.String() != programs.TunPeer {
		t.Errorf("home is seen as %v", by)
	}
	if f := n.Fragments(); f != 0 {
		t.Errorf("%d fragments", f)
	}
	leavesNothing(t, n, home, laptop)
}

// By another name, unsealed, and again after a kill of the process that offers.
func TestTunRaw(t *testing.T) {
	t.Parallel()
	n := programs.Start(t, netns.Options{Wire: true}, exposeEcho, dialEcho)
	n.Home.Tun("--expose", "web", "--raw").Kill()
	n.Home.Tun("--expose", "web", "--raw")
	n.Laptop.Tun("--peer", "home/web")
	serveWeb(t, n.Scene.Home)
	for range 3 {
		if got := get(t, n.Scene.Laptop, programs.TunPeer, "300000"); len(got) != 300000 {
			t.Errorf("%d bytes came", len(got))
		}
		time.Sleep(500 * time.Millisecond) // in which the flow becomes raw
	}
	if out := n.Home.Do("status"); !strings.Contains(out, "raw") {
		t.Errorf("home offers %s", out)
	}
}

// onePort looks whether all that comes directly from home, probes and data, comes
// to one port of ours: so the NAT maps one thing.
func onePort(t *testing.T, wire *programs.Capture) {
	t.Helper()
	ports := map[uint16]map[byte]int{} // of ours, by the kind of what comes from home
	for _, p := range wire.Packets() {
		if len(p) <= 28 || netip.AddrFrom4([4]byte(p[12:])).String() != netns.HomePublic {
			continue
		}
		port := uint16(p[22])<<8 | uint16(p[23])
		if ports[port] == nil {
			ports[port] = map[byte]int{}
		}
		ports[port][p[28]>>5]++
	}
	const probe, data = 0b100, 0b101
	if len(ports) != 1 {
		t.Errorf("from home it came to %d ports: %v", len(ports), ports)
	}
	for _, kinds := range ports {
		if kinds[probe] == 0 || kinds[data] == 0 {
			t.Errorf("what came by kind: %v", kinds)
		}
	}
}

// leavesNothing ends both processes, and looks for what they made.
func leavesNothing(t *testing.T, n *programs.Network, home, laptop *netns.Process) {
	t.Helper()
	home.Stop()
	laptop.Stop()
	for _, h := range []*netns.Host{n.Scene.Home, n.Scene.Laptop} {
		if out, err := h.Try("ip", "link", "show", "rdv0"); err == nil {
			t.Errorf("the device is still there: %s", out)
		}
	}
	for _, a := range []*programs.Agent{n.Home, n.Laptop} {
		if out := a.Do("status"); strings.Contains(out, "tun") {
			t.Errorf("%s still has a part in it: %s", a.Name, out)
		}
	}
}

// Without privilege, with a name that is taken or an interface that isn't
// there, it says what to do.
func TestTunSaysWhatIsMissing(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true, NoCarrier: true})
	args := func(device, by string) []string {
		return []string{"agent", "tun", "--interface", device, "--listen-port", tunPort, "--bind-to-interface", by}
	}
	for name, c := range map[string]struct {
		guise netns.Guise
		args  []string
		want  string
	}{
		"no privilege":    {netns.Guise{Unprivileged: true}, args("tcp0", netns.WAN), "CAP_NET_ADMIN"},
		"not a TUN":       {netns.Guise{}, args("lo", netns.WAN), "is there an interface of that name"},
		"no such wan":     {netns.Guise{}, args("tcp0", "wwan1"), `there is no interface "wwan1"`},
		"no agent":        {netns.Guise{}, []string{"agent", "tun", "--peer", "home", "--state", s.Dir()}, "no daemon is running"},
		"listen, no bind": {netns.Guise{}, args("tcp0", "")[:6], "--bind-to-interface is missing"},
	} {
		out, err := s.VPS.TryAs(c.guise, c.args...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %s %v, want %q", name, out, err, c.want)
		}
		if _, err := s.VPS.Try("ip", "link", "show", "tcp0"); err == nil {
			t.Errorf("%s: the device is left", name)
		}
	}
	first := programs.PlainTun(s.VPS, "--listen-port", tunPort, "--bind-to-interface", netns.WAN)
	out, err := s.VPS.Try(args("tcp0", netns.WAN)...)
	if err == nil || !strings.Contains(err.Error(), "another program holds it") {
		t.Errorf("a device that is held: %s %v", out, err)
	}
	out, err = s.VPS.Try(args("tcp1", netns.WAN)...)
	if err == nil || !strings.Contains(err.Error(), "is the port free") {
		t.Errorf("a port that is held: %s %v", out, err)
	}
	first.Stop()
}
