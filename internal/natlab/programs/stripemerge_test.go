//go:build linux

package programs_test

import (
	"strings"
	"testing"

	"rendezvous/internal/natlab/netns"
)

// merges says whether the VPS's interface merges datagrams that are not for a
// socket of the port they came to.
func (s *striped) merges() bool {
	return strings.Contains(s.VPS.Run("ethtool", "-k", netns.WAN), "rx-udp-gro-forwarding: on")
}

// The interface merges bursts for striped ports while the rules are there, and
// is as it was when they are not.
func TestStripedInterfaceMergesBursts(t *testing.T) {
	t.Parallel()
	o := netns.DefaultOptions()
	o.Wire = true
	s := stripe(t, o, "exclude: [25]")
	if s.merges() {
		t.Fatal("it merges before anybody asked for it")
	}
	for range 2 {
		s.command("apply")
		if !s.merges() {
			t.Fatal("with the rules it does not")
		}
	}
	for range 2 {
		s.command("remove")
		if s.merges() {
			t.Error("without them it still does")
		}
	}
	if out := s.VPS.Run("nft", "list", "tables"); strings.Contains(out, "rendezvous") {
		t.Errorf("remove leaves tables: %s", out)
	}
	s.VPS.Run("ethtool", "-K", netns.WAN, "rx-udp-gro-forwarding", "on")
	s.command("apply")
	s.command("remove")
	if !s.merges() {
		t.Error("what somebody else had switched on is off")
	}
}
