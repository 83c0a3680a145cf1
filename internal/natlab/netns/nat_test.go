//go:build linux

package netns_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
)

// How long a test waits for what should not come, and for what should, on a
// scene without delay.
const (
	short = 100 * time.Millisecond
	long  = 2 * time.Second
)

// TestNATs asks four addresses of the VPS from one socket, and lets the three
// that were not asked yet speak first.
func TestNATs(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	for _, a := range []string{"203.0.113.10:7000", "203.0.113.10:7001", "203.0.113.11:7000", "203.0.113.11:7001"} {
		echo(t, s.VPS, a)
	}
	tests := []struct {
		name      string
		nat       netns.NAT
		sameAddr  bool // the same mapping for another port of the same address
		otherAddr bool // the same mapping for another address
		preserved bool
		delta     int // between the ports of two mappings, when it is certain
	}{
		{"masquerade", netns.Masquerade(), true, true, true, 0},
		{"carrier's block", netns.CarrierGrade(20000, 20999), true, true, false, 0},
		{"random ports", netns.RandomPorts(), false, false, false, 0},
		{"random ports in a block", netns.RandomBlock(10000, 10999), false, false, false, 0},
		{"sequential", netns.SequentialPorts(1), false, false, false, 1},
		{"sequential by two", netns.SequentialPorts(2), false, false, false, 2},
		{"address-dependent", netns.AddressDependent(), true, false, false, 0},
		{"open filter", netns.OpenFilter(), true, true, true, 0},
		{"address filter", netns.AddressFilter(), true, true, true, 0},
		{"accepting input", netns.Masquerade().AcceptingInput(), true, true, true, 0},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.LaptopRouter.SetNAT(test.nat, netns.WAN, netns.LAN, netns.LaptopPublic)
			s.LaptopRouter.FlushConntrack()
			local := netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(41000+i))
			conn := listen(t, s.Laptop, local.String())
			first := mustAsk(t, conn, "203.0.113.10:7000")
			samePort := mustAsk(t, conn, "203.0.113.10:7001")
			otherAddr := mustAsk(t, conn, "203.0.113.11:7000")
			if first.Addr().String() != netns.LaptopPublic {
				t.Fatalf("seen as %v, not by the router's address", first)
			}
			if got := samePort == first; got != test.sameAddr {
				t.Errorf("mapping to another port of the address: %v and %v", first, samePort)
			}
			if got := otherAddr == first; got != test.otherAddr {
				t.Errorf("mapping to another address: %v and %v", first, otherAddr)
			}
			if got := first.Port() == local.Port(); got != test.preserved {
				t.Errorf("port %d was mapped to %d", local.Port(), first.Port())
			}
			if d := int(samePort.Port()) - int(first.Port()); test.delta != 0 && d != test.delta {
				t.Errorf("the next mapping's port is %d further, want %d", d, test.delta)
			}
			if again := mustAsk(t, conn, "203.0.113.10:7000"); again != first {
				t.Errorf("the mapping moved from %v to %v", first, again)
			}
		})
	}
}

func TestFiltering(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	known := listen(t, s.VPS, "203.0.113.10:7000")
	otherPort := listen(t, s.VPS, "203.0.113.10:7001")
	otherAddr := listen(t, s.VPS, "203.0.113.11:7000")
	tests := []struct {
		name               string
		nat                netns.NAT
		fromPort, fromAddr bool
	}{
		{"masquerade", netns.Masquerade(), false, false},
		{"accepting input", netns.Masquerade().AcceptingInput(), false, false},
		{"address filter", netns.AddressFilter(), true, false},
		{"open filter", netns.OpenFilter(), true, true},
	}
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s.LaptopRouter.SetNAT(test.nat, netns.WAN, netns.LAN, netns.LaptopPublic)
			s.LaptopRouter.FlushConntrack()
			port := uint16(42000 + i)
			conn := listen(t, s.Laptop, netip.AddrPortFrom(netip.IPv4Unspecified(), port).String())
			mapped := netip.AddrPortFrom(netip.MustParseAddr(netns.LaptopPublic), port)
			passes := func(what string, expected bool) bool {
				t.Helper()
				limit := short
				if expected {
					limit = long
				}
				if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
					t.Fatal(err)
				}
				buf := make([]byte, 100)
				n, err := conn.Read(buf)
				if err == nil && string(buf[:n]) != what {
					t.Errorf("got %q, want %q", buf[:n], what)
				}
				return err == nil
			}
			if _, err := conn.WriteToUDPAddrPort([]byte("open"), netip.MustParseAddrPort("203.0.113.10:7000")); err != nil {
				t.Fatal(err)
			}
			buf := make([]byte, 10)
			if _, err := known.Read(buf); err != nil {
				t.Fatal(err)
			}
			for _, from := range []struct {
				name   string
				write  func([]byte, netip.AddrPort) (int, error)
				passes bool
			}{
				{"known", known.WriteToUDPAddrPort, true},
				{"other port", otherPort.WriteToUDPAddrPort, test.fromPort},
				{"other address", otherAddr.WriteToUDPAddrPort, test.fromAddr},
			} {
				if _, err := from.write([]byte(from.name), mapped); err != nil {
					t.Fatal(err)
				}
				if got := passes(from.name, from.passes); got != from.passes {
					t.Errorf("a datagram from the %s passes: %v", from.name, got)
				}
			}
		})
	}
}

// Where a router answers what is unsolicited, a datagram that comes too early
// takes the port from the one that goes out after it.
func TestAcceptingInputLosesThePort(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	for _, accepting := range []bool{false, true} {
		nat, port := netns.Masquerade(), uint16(43000)
		if accepting {
			nat, port = nat.AcceptingInput(), 43001
		}
		s.LaptopRouter.SetNAT(nat, netns.WAN, netns.LAN, netns.LaptopPublic)
		s.LaptopRouter.FlushConntrack()
		early := listen(t, s.VPS, netip.AddrPortFrom(netip.MustParseAddr(netns.VPSAddr), port).String())
		mapped := netip.AddrPortFrom(netip.MustParseAddr(netns.LaptopPublic), port)
		before := s.LaptopRouter.Counter("unsolicited").Packets
		if _, err := early.WriteToUDPAddrPort([]byte("early"), mapped); err != nil {
			t.Fatal(err)
		}
		netns.Eventually(t, time.Second, "the early datagram to come", func() error {
			if s.LaptopRouter.Counter("unsolicited").Packets == before {
				return os.ErrNotExist
			}
			return nil
		})
		conn := listen(t, s.Laptop, netip.AddrPortFrom(netip.IPv4Unspecified(), port).String())
		if _, err := conn.WriteToUDPAddrPort([]byte("late"), early.LocalAddr().(*net.UDPAddr).AddrPort()); err != nil {
			t.Fatal(err)
		}
		_, from, err := early.ReadFromUDPAddrPort(make([]byte, 10))
		if err != nil {
			t.Fatal(err)
		}
		if lost := from != mapped; lost != accepting {
			t.Errorf("accepting input %v: the late datagram came from %v", accepting, from)
		}
	}
}

func TestBlockedAndLimited(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	echo(t, s.VPS, netns.VPSAddr+":7000")
	conn := listen(t, s.Laptop, "0.0.0.0:44000")
	set := func(n netns.NAT) {
		s.LaptopRouter.SetNAT(n, netns.WAN, netns.LAN, netns.LaptopPublic)
		s.LaptopRouter.FlushConntrack()
	}
	set(netns.Masquerade().BlockUDP())
	if from, err := ask(conn, netns.VPSAddr+":7000", short); err == nil {
		t.Errorf("UDP is blocked, and came from %v", from)
	}
	s.Laptop.Run("ping", "-c1", "-W1", netns.VPSAddr)
	set(netns.Masquerade().OnlyHTTPS())
	if _, err := s.Laptop.Try("ping", "-c1", "-W1", netns.VPSAddr); err == nil {
		t.Error("ping passes where only HTTPS may")
	}
	set(netns.Masquerade().LimitSessions(5))
	for n := range 8 {
		c, limit := listen(t, s.Laptop, "0.0.0.0:0"), long
		if n >= 5 {
			limit = short
		}
		if _, err := ask(c, netns.VPSAddr+":7000", limit); (err == nil) != (n < 5) {
			t.Errorf("of 5 sessions at most, number %d: %v", n+1, err)
		}
	}
	set(netns.Masquerade().Lifetime(1 * time.Second))
	if got := mustAsk(t, conn, netns.VPSAddr+":7000").Port(); got != 44000 {
		t.Errorf("mapped to port %d", got)
	}
	netns.Eventually(t, 5*time.Second, "the mapping to expire", func() error {
		out, err := s.LaptopRouter.Try("conntrack", "-L", "-p", "udp", "--sport", "44000")
		if err == nil && out != "" {
			return fmt.Errorf("still there: %s", out)
		}
		return err
	})
}
