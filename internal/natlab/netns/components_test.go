//go:build linux

package netns_test

import (
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
)

func TestWireGuardToPublicHost(t *testing.T) {
	s := netns.Standard(t, netns.DefaultOptions())
	server := s.VPS.WireGuard("10.9.0.1/24", 51820)
	client := s.Home.WireGuard("10.9.0.2/24", 0)
	server.SetPeer(client, "", "10.9.0.2/32")
	client.SetPeer(server, netns.VPSAddr+":51820", "10.9.0.1/32")
	if took := s.Home.Ping("10.9.0.1", 3*time.Second); took > time.Second {
		t.Errorf("the first ping through WireGuard took %v", took)
	}
	if client.Handshake().IsZero() {
		t.Error("wg knows of no handshake")
	}
	if rate := s.Iperf3(s.Home, s.VPS, "10.9.0.1", time.Second); rate < 5 {
		t.Errorf("iperf3 got %.1f Mbit/s through WireGuard", rate)
	}
	if n := s.Fragments(); n != 0 {
		t.Errorf("%d IP fragments on the wire", n)
	}
}

func TestForeignSTUN(t *testing.T) {
	s := netns.Standard(t, netns.Options{Wire: true})
	s.VPS.Turnserver(3478, netns.VPSAddr, netns.VPSOtherAddr)
	if out := s.Home.Overhear(time.Second, "turnutils_stunclient", "-p", "3478", netns.VPSAddr); !strings.Contains(out, netns.HomePublic) {
		t.Errorf("turnutils_stunclient did not see %s: %s", netns.HomePublic, out)
	}
	out := s.Laptop.Run("turnutils_natdiscovery", "-m", "-p", "3478", netns.VPSAddr)
	if !strings.Contains(out, "Endpoint Independent Mapping") {
		t.Errorf("turnutils_natdiscovery says %s", out)
	}
}
