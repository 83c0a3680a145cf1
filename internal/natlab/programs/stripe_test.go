//go:build linux

package programs_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
	"rendezvous/internal/natlab/programs"
)

// striped is a scene whose coordinator has every port of its host.
type striped struct {
	*netns.Scene
	*programs.Coordinator
	config string
}

func stripe(t *testing.T, o netns.Options, settings string) *striped {
	t.Helper()
	s := &striped{Scene: netns.Standard(t, o)}
	s.config = filepath.Join(s.Dir(), "rendezvous.yaml")
	if err := os.WriteFile(s.config, []byte("stripe: {"+settings+"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	addrs := []string{netns.VPSAddr, netns.VPSOtherAddr}
	if o.IPv6 {
		addrs = append(addrs, netns.VPSIPv6)
	}
	s.Coordinator = programs.Serve(t, s.VPS, s.state(), addrs, "--config", s.config)
	return s
}

func (s *striped) state() string { return filepath.Join(s.Dir(), "coordinator") }

// command runs `rendezvous stripe` on the VPS.
func (s *striped) command(args ...string) string {
	return s.VPS.Run(append([]string{"rendezvous", "stripe", "--state", s.state()}, args...)...)
}

// table is ours as nft shows it, "" where there is none.
func (s *striped) table() string {
	out, err := s.VPS.Try("nft", "--stateless", "list", "table", "inet", "rendezvous")
	if err != nil {
		return ""
	}
	return out
}

func (s *striped) waitTable(t *testing.T, there bool) {
	t.Helper()
	netns.Eventually(t, 12*time.Second, fmt.Sprintf("the table to be there: %v", there), func() error {
		if got := s.table() != ""; got != there {
			return fmt.Errorf("it is %v", got)
		}
		return nil
	})
}

// What apply sends to the kernel is what print says; doing it again changes
// nothing; what was flushed comes back; others' tables stay; a stop takes it
// out, and after a kill the command does.
// S2-01, S2-03, S2-05
func TestStripeTable(t *testing.T) {
	t.Parallel()
	o := netns.DefaultOptions()
	o.Wire, o.IPv6 = true, true
	s := stripe(t, o, "apply: true, exclude: [25, 8000-8100], reserved: [30000-30100]")
	s.waitTable(t, true)
	applied := s.table()
	for _, want := range []string{netns.VPSAddr, netns.VPSOtherAddr, netns.VPSIPv6, "1-21, 23-24, 26-442, 444-3477, 3479-7999, 8101-29999, 30101-65535"} {
		if !strings.Contains(strings.Join(strings.Fields(applied), " "), want) {
			t.Errorf("the table lacks %s:\n%s", want, applied)
		}
	}
	s.VPS.NFT(s.command("print"))
	if got := s.table(); got != applied {
		t.Errorf("print makes\n%s\nand apply\n%s", got, applied)
	}
	s.command("apply")
	if got := s.table(); got != applied {
		t.Errorf("applied again it is\n%s", got)
	}
	saved := filepath.Join(s.Dir(), "saved.nft")
	if err := os.WriteFile(saved, []byte(s.VPS.Run("nft", "list", "ruleset")), 0o600); err != nil {
		t.Fatal(err)
	}
	s.VPS.Run("nft", "flush", "ruleset")
	s.waitTable(t, true)
	s.VPS.Run("nft", "flush", "ruleset")
	s.VPS.Run("nft", "-f", saved) // as a firewall's service does at boot
	if got := s.table(); got != applied {
		t.Errorf("saved and loaded again it is\n%s", got)
	}
	if out := s.VPS.Run("rendezvous", "status", "--state", s.state()); !strings.Contains(out, "striped over udp: ") {
		t.Errorf("the status is silent on it:\n%s", out)
	}
	s.Stop()
	if s.table() != "" || !strings.Contains(s.VPS.Run("nft", "list", "tables"), "watch") {
		t.Error("after a stop our table is there, or another's is not")
	}
	s.Restart()
	s.waitTable(t, true)
	s.Kill()
	if s.table() == "" {
		t.Error("a kill took it out")
	}
	s.command("remove")
	s.command("remove")
	if s.table() != "" {
		t.Error("remove left it")
	}
	_, err := s.VPS.TryAs(netns.Guise{Unprivileged: true}, "rendezvous", "stripe", "apply", "--config", s.config)
	if err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN is missing; `sudo ") {
		t.Errorf("without the privilege: %v", err)
	}
}

// stunRequest is a Binding request (RFC 8489 section 5).
func stunRequest(id byte) []byte {
	return append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, bytes.Repeat([]byte{id}, 12)...)
}

// seenPort reads the port of the XOR-MAPPED-ADDRESS, the first attribute of our
// responder's.
func seenPort(answer []byte) uint16 {
	for rest := answer[min(20, len(answer)):]; len(rest) >= 8; {
		size := int(binary.BigEndian.Uint16(rest[2:]))
		if binary.BigEndian.Uint16(rest) == 0x0020 {
			return binary.BigEndian.Uint16(rest[6:]) ^ 0x2112
		}
		rest = rest[min(len(rest), 4+(size+3)&^3):]
	}
	return 0
}

// askUDP sends one request to each port from one socket, and says from which
// ports the answers came and at which port each shows the socket.
func askUDP(t *testing.T, h *netns.Host, network, host string, ports ...uint16) (own uint16, seen map[uint16]uint16) {
	t.Helper()
	seen = map[uint16]uint16{}
	err := h.Do(func() error {
		c, err := net.ListenUDP(network, nil)
		if err != nil {
			return err
		}
		defer c.Close()
		own = c.LocalAddr().(*net.UDPAddr).AddrPort().Port()
		for i, port := range ports {
			to := netip.AddrPortFrom(netip.MustParseAddr(host), port)
			if _, err := c.WriteToUDPAddrPort(stunRequest(byte(i)), to); err != nil {
				return err
			}
		}
		buf := make([]byte, 1500)
		for range ports {
			if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
				return err
			}
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return nil // what came is told
			}
			seen[from.Port()] = seenPort(buf[:n])
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return own, seen
}

// askTLS completes a handshake with a port; the connection is only with whom
// was asked, or there is none.
func askTLS(h *netns.Host, host string, port uint16) error {
	var conn net.Conn
	err := h.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(netip.MustParseAddr(host), port).String(), 2*time.Second)
		return err
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(3 * time.Second)); err != nil {
		return err
	}
	return tls.Client(conn, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}).Handshake()
}

// answerWith opens a TCP listener that says a word, and a UDP socket that
// answers with it, at a port of the host.
func answerWith(t *testing.T, h *netns.Host, port int, word string) {
	t.Helper()
	err := h.Do(func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		u, err := net.ListenUDP("udp", &net.UDPAddr{Port: port})
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for c, err := l.Accept(); err == nil; c, err = l.Accept() {
				_, _ = c.Write([]byte(word))
				c.Close()
			}
		}()
		go func() {
			buf := make([]byte, 1500)
			for _, from, err := u.ReadFromUDPAddrPort(buf); err == nil; _, from, err = u.ReadFromUDPAddrPort(buf) {
				_, _ = u.WriteToUDPAddrPort([]byte(word), from)
			}
		}()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// says is what somebody at a port answers.
func says(h *netns.Host, network, host string, port uint16) string {
	buf := make([]byte, 100)
	n := 0
	err := h.Do(func() error {
		c, err := net.DialTimeout(network, netip.AddrPortFrom(netip.MustParseAddr(host), port).String(), time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if network == "udp" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		n, err = c.Read(buf)
		return err
	})
	if err != nil {
		return err.Error()
	}
	return string(buf[:n])
}

// Answers leave from the port that was asked, over UDP, TLS and IPv6. What
// programs of the host listen on stays theirs, sshd's second port for one, and
// so does what another table translates; a port on loopback alone is ours.
// S2-01, S2-02, S2-03, S2-11, S2-15
func TestStripedPortsAnswer(t *testing.T) {
	o := netns.DefaultOptions()
	o.Wire, o.IPv6 = true, true
	s := stripe(t, o, "apply: false, exclude: [25]")
	answerWith(t, s.VPS, 2222, "SSH-2.0")
	answerWith(t, s.VPS, 9999, "container")
	s.VPS.NFT(`table ip docker_lab {
 chain before {
  type nat hook prerouting priority -100; policy accept;
  meta l4proto { tcp, udp } th dport 8080 redirect to :9999
 }
}
`)
	err := s.VPS.Do(func() error {
		resolver, err := net.ListenPacket("udp4", "127.0.0.53:53")
		if err == nil {
			t.Cleanup(func() { resolver.Close() })
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s.command("apply")

	ports := []uint16{1, 53, 993, 5060, 9000, 40000, 65535}
	for _, at := range []struct{ network, host string }{{"udp4", netns.VPSAddr}, {"udp4", netns.VPSOtherAddr}, {"udp6", netns.VPSIPv6}} {
		for _, port := range ports {
			if _, seen := askUDP(t, s.Laptop, at.network, at.host, port); seen[port] == 0 {
				t.Errorf("UDP %s port %d: answers %v", at.host, port, seen)
			}
			if err := askTLS(s.Laptop, at.host, port); err != nil {
				t.Errorf("TLS %s port %d: %v", at.host, port, err)
			}
		}
	}
	for _, network := range []string{"tcp", "udp"} {
		if got := says(s.Laptop, network, netns.VPSAddr, 2222); got != "SSH-2.0" {
			t.Errorf("%s 2222 says %q", network, got)
		}
		if got := says(s.Laptop, network, netns.VPSAddr, 8080); got != "container" {
			t.Errorf("%s 8080 says %q", network, got)
		}
	}
	for _, port := range []uint16{22, 25} {
		if err := askTLS(s.Laptop, netns.VPSAddr, port); err == nil {
			t.Errorf("port %d leads to the coordinator", port)
		}
	}
}

// One socket that asks several striped ports is answered by all, each from its
// port. But the coordinator sees its true address only in the flow that came
// first: the others' would collide with it behind the translation, so the
// kernel gives them other source ports. Agents know (see throughDoor).
// S2-15
func TestOneSocketAsksManyStripedPorts(t *testing.T) {
	o := netns.DefaultOptions()
	o.Wire = true
	s := stripe(t, o, "apply: true")
	s.waitTable(t, true)
	own, seen := askUDP(t, s.LaptopRouter, "udp4", netns.VPSAddr, 53, 443, 123, 9000)
	t.Logf("the socket's port is %d; by the port that was asked, it was seen at %v", own, seen)
	if len(seen) != 4 {
		t.Errorf("not all answered: %v", seen)
	}
	if seen[53] != own {
		t.Errorf("the first flow was seen at port %d, the socket has %d", seen[53], own)
	}
	// A door of the coordinator's own that is another socket there collides with none.
	own, seen = askUDP(t, s.LaptopRouter, "udp4", netns.VPSAddr, 53, 3478)
	if seen[53] != own || seen[3478] != own {
		t.Errorf("a striped port and another of the coordinator's sockets: seen at %v, want %d", seen, own)
	}
}

// What the host itself asks others is answered to it, whether it asked before
// the rules came or after, and also when connection tracking has forgotten.
// S2-02
func TestStripedHostKeepsItsOwnFlows(t *testing.T) {
	o := netns.DefaultOptions()
	o.Wire = true
	o.LaptopNAT = netns.Masquerade().AcceptingInput()
	s := stripe(t, o, "apply: false")
	answerWith(t, s.LaptopRouter, 7000, "resolver")
	var before *net.UDPConn
	err := s.VPS.Do(func() (err error) {
		before, err = net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.ParseIP(netns.LaptopPublic), Port: 7000})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	ask := func(what string) {
		t.Helper()
		buf := make([]byte, 100)
		before.SetDeadline(time.Now().Add(time.Second))
		if _, err := before.Write([]byte("?")); err != nil {
			t.Fatal(err)
		}
		if n, err := before.Read(buf); err != nil || string(buf[:n]) != "resolver" {
			t.Errorf("%s: %q, %v", what, buf[:n], err)
		}
	}
	ask("before")
	s.command("apply")
	ask("a socket of before")
	for range 20 {
		for _, network := range []string{"udp", "tcp"} {
			if got := says(s.VPS, network, netns.LaptopPublic, 7000); got != "resolver" {
				t.Errorf("%s, asked afterwards: %q", network, got)
			}
		}
	}
	// The other side speaks first, after the entry is gone.
	s.VPS.FlushConntrack()
	local := before.LocalAddr().(*net.UDPAddr).AddrPort()
	err = s.LaptopRouter.Do(func() error {
		c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(local))
		if err == nil {
			_, err = c.Write([]byte("?"))
			c.Close()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := exec.Command("ip", "netns", "exec", s.VPS.Namespace(), "conntrack", "-L", "-p", "udp", "--orig-port-dst", fmt.Sprint(local.Port())).Output(); bytes.Contains(out, []byte("sport=443")) {
		t.Errorf("a datagram for a socket of the host was led to the coordinator: %s", out)
	}
}

// firewall lets hosts behind the laptop's router send what matches, and nothing
// else.
func firewall(matches ...string) netns.NAT {
	n := netns.Masquerade()
	for _, m := range matches {
		n = n.Filter(`iifname "$LAN" ` + m + ` accept`)
	}
	return n.Filter(`iifname "$LAN" drop`)
}

// An agent joins, finds the coordinator and reaches its peer wherever a few
// ports pass, whichever they are.
// S2-01, S2-13, S2-14, S2-15, S2-17
func TestAgentsFindTheStripedCoordinator(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name      string
		nat       netns.NAT
		settings  string // of the laptop's agent
		transport string
		path      string // of the laptop to home, once it is found
		answers   string // what leaves the VPS for the laptop, in nftables' words
	}{
		{"only high TCP ports", firewall("tcp dport 32768-65535"), "", "tls", "relay-tls", "tcp sport 32768-65535"},
		{"only 53, 80 and 443", firewall("meta l4proto { tcp, udp } th dport { 53, 80, 443 }"), "", "quic", "relay-udp", "udp sport 443"},
		{"only 53", firewall("meta l4proto { tcp, udp } th dport 53"), "", "quic", "relay-udp", "udp sport 53"},
		{"5060 is blocked, and preferred", netns.Masquerade().Filter("meta l4proto { tcp, udp } th dport 5060 drop"), "ports: [5060]\n", "quic", "direct-udp", "udp sport 443"},
		{"5060 is preferred", netns.Masquerade(), "ports: [5060]\n", "quic", "direct-udp", "udp sport 5060"},
		{"three odd ports", firewall("tcp dport { 993, 5222 }", "udp dport 1194"), "", "", "relay-udp", "udp sport 1194"},
		{"two odd ports over TCP", firewall("tcp dport { 995, 5222 }"), "", "tls", "relay-tls", "tcp sport { 995, 5222 }"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			o := netns.DefaultOptions()
			o.LaptopNAT = test.nat
			s := stripe(t, o, "apply: true")
			s.waitTable(t, true)
			s.VPS.CountLeaving("answers", "ip daddr "+netns.LaptopPublic+" "+test.answers)
			home := programs.Join(t, s.Home, s.Dir(), "home", s.Invite())
			home.Up("--expose", exposeEcho)
			programs.Sink(s.Home, sinkAddr)
			began := time.Now()
			laptop := programs.Join(t, s.Laptop, s.Dir(), "laptop", home.Do("invite"))
			joined := time.Since(began)
			settings := filepath.Join(s.Dir(), "agent.yaml")
			if err := os.WriteFile(settings, []byte(test.settings), 0o600); err != nil {
				t.Fatal(err)
			}
			laptop.Start("--config", settings, "--dial", dialEcho)
			laptop.WaitConnected(30 * time.Second)
			load := programs.StartLoad(t, s.Laptop, "ping", "-to", loadAddr, "-size", "100", "-n", "6000", "-interval", "10ms")
			laptop.WaitPath("home", test.path, 40*time.Second)
			load.Kill()
			st := laptop.Status()
			t.Logf("joined in %v; connected over %s, %.1f ms; %s, mapping seen %v", joined.Round(10*time.Millisecond), st.Coordinator.Transport, st.Coordinator.RTT, test.path, s.VPS.Counter("answers"))
			if test.transport != "" && st.Coordinator.Transport != test.transport {
				t.Errorf("the coordinator is reached over %s, want %s", st.Coordinator.Transport, test.transport)
			}
			if s.VPS.Counter("answers").Packets < 20 {
				t.Errorf("no answers leave with %s", test.answers)
			}
		})
	}
}

// Where the network holds back the port that the settings name first, relay
// legs go to the one that is measured to be better. The lab's VPS has an
// interface without checksums: bursts from a translated port must not be lost.
// S2-14, S2-15
func TestPreferredPortIsMeasured(t *testing.T) {
	o := netns.DefaultOptions()
	o.LaptopNAT = netns.Masquerade().Filter("udp dport 443 numgen random mod 100 < 25 drop")
	s := stripe(t, o, "apply: true")
	s.waitTable(t, true)
	s.VPS.CountLeaving("answers", "ip daddr "+netns.LaptopPublic+" udp sport 5060")
	home := programs.Join(t, s.Home, s.Dir(), "home", s.Invite())
	home.Up("--expose", exposeEcho)
	programs.Sink(s.Home, sinkAddr)
	laptop := programs.Join(t, s.Laptop, s.Dir(), "laptop", home.Do("invite"))
	settings := filepath.Join(s.Dir(), "agent.yaml")
	if err := os.WriteFile(settings, []byte("ports: [443, 5060]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	laptop.Up("--config", settings, "--dial", dialEcho, "--paths", "relay-udp")
	laptop.WaitLog("measured to be best", 20*time.Second)
	// Control goes over the port that loses, so that an introduction may take a while.
	load := programs.StartLoad(t, s.Laptop, "ping", "-to", loadAddr, "-size", "100", "-n", "3000", "-interval", "10ms")
	laptop.WaitPath("home", "relay-udp", 20*time.Second)
	load.Kill()
	before := s.VPS.Counter("answers").Packets
	var p programs.Pings
	programs.Load(t, s.Laptop, &p, "ping", "-to", loadAddr, "-size", "100", "-n", "300", "-interval", "10ms")
	if p.Answered < p.Sent*95/100 {
		t.Errorf("%d of %d were answered, the longest gap %.0f ms at %.0f ms: is the relay leg on the port that loses, or are checksums wrong?", p.Answered, p.Sent, p.LongestGap, p.GapAt)
	}
	if got := s.VPS.Counter("answers").Packets - before; got < uint64(p.Answered) {
		t.Errorf("%d datagrams left port 5060", got)
	}
}
