//go:build linux

package netns_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/hop"
	"rendezvous/internal/natlab/netns"
)

// echo answers each datagram with the address that it came from.
func echo(t *testing.T, h *netns.Host, addr string) {
	t.Helper()
	conn := listen(t, h, addr)
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if _, err := conn.WriteToUDPAddrPort([]byte(from.String()), from); err != nil {
				return
			}
		}
	}()
}

func listen(t *testing.T, h *netns.Host, addr string) *net.UDPConn {
	t.Helper()
	var conn *net.UDPConn
	err := h.Do(func() (err error) {
		conn, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(addr)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ask gives what the echo at addr answers.
func ask(conn *net.UDPConn, addr string, limit time.Duration) (netip.AddrPort, error) {
	if _, err := conn.WriteToUDPAddrPort([]byte("?"), netip.MustParseAddrPort(addr)); err != nil {
		return netip.AddrPort{}, err
	}
	if err := conn.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return netip.AddrPort{}, err
	}
	buf := make([]byte, 100)
	n, _, err := conn.ReadFromUDPAddrPort(buf)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.ParseAddrPort(string(buf[:n]))
}

func mustAsk(t *testing.T, conn *net.UDPConn, addr string) netip.AddrPort {
	t.Helper()
	got, err := ask(conn, addr, 2*time.Second)
	if err != nil {
		t.Fatalf("ask %s: %v", addr, err)
	}
	return got
}

func TestDelayLossAndTTL(t *testing.T) {
	s := netns.Standard(t, netns.DefaultOptions())
	echo(t, s.VPS, netns.VPSAddr+":7000")
	conn := listen(t, s.Home, "0.0.0.0:7001")

	best := time.Hour
	for range 5 {
		begin := time.Now()
		from := mustAsk(t, conn, netns.VPSAddr+":7000")
		best = min(best, time.Since(begin))
		if from.Addr().String() != netns.HomePublic || from.Port() < 20000 || from.Port() > 20999 {
			t.Fatalf("home is seen as %v, not within the carrier's block", from)
		}
	}
	if best < 40*time.Millisecond || best > 42*time.Millisecond {
		t.Errorf("round trip is %v, want 40 to 42 ms", best)
	}

	// Two routers of its own, then six of the internet: 8 is one too few.
	for ttl, want := range map[int]string{3: "192.0.2.1", 8: "192.0.2.6", 9: "bytes from"} {
		out, _ := s.Home.Try("ping", "-n", "-c1", "-W1", fmt.Sprintf("-t%d", ttl), netns.VPSAddr)
		if !strings.Contains(strings.ToLower(out), want) {
			t.Errorf("ping with TTL %d: no %q in %s", ttl, want, out)
		}
	}

	s.SetBoth("vps", "carrier", func(l *hop.Link) { l.Loss = 0.5; l.Delay = 0 })
	answered := 0
	for range 200 {
		if _, err := ask(conn, netns.VPSAddr+":7000", 5*time.Millisecond); err == nil {
			answered++
		}
	}
	if answered < 20 || answered > 90 {
		t.Errorf("%d of 200 came back; with 50 %% loss each way about 50 should", answered)
	}
	if s.Fragments() != 0 {
		t.Errorf("%d fragments seen, none was sent", s.Fragments())
	}
}

func TestFragmentsAndUnsolicitedAreCounted(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	s.Home.Run("ping", "-c1", "-s3000", "-Mdont", netns.VPSAddr)
	if got := s.VPS.Counter("fragments").Packets; got < 2 {
		t.Errorf("the VPS saw %d fragments, want 2 or more", got)
	}
	if s.Fragments() == 0 {
		t.Error("the lab saw no fragments")
	}
	s.VPS.CountLeaving("stray", "ip daddr "+netns.HomePublic+" udp dport 9")
	stray := listen(t, s.VPS, netns.VPSAddr+":7000")
	if _, err := stray.WriteToUDPAddrPort([]byte("?"), netip.MustParseAddrPort(netns.HomePublic+":9")); err != nil {
		t.Fatal(err)
	}
	netns.Eventually(t, time.Second, "the carrier to drop it", func() error {
		if n := s.Carrier.Counter("unsolicited").Packets; n != 1 {
			return fmt.Errorf("%d unsolicited packets", n)
		}
		return nil
	})
	if n := s.VPS.Counter("stray").Packets; n != 1 {
		t.Errorf("%d packets left for it, want 1", n)
	}
}

func TestProcessAndTeardown(t *testing.T) {
	var lab *netns.Lab
	t.Run("scene", func(t *testing.T) {
		s := netns.Standard(t, netns.Options{Wire: true})
		lab = s.Lab
		p := s.VPS.Start("sh", "-c", "echo ready; exec sleep 1000")
		p.WaitLog("read", time.Second)
		if left := lab.Leftovers(); len(left) != 7 {
			t.Errorf("the scene has %d namespaces, want 7: %v", len(left), left)
		}
	})
	if left := lab.Leftovers(); len(left) != 0 {
		t.Errorf("teardown left %v", left)
	}
	if _, err := os.Stat(lab.Dir()); !os.IsNotExist(err) {
		t.Errorf("teardown left %s: %v", lab.Dir(), err)
	}
}
