//go:build linux

package netns_test

import (
	"testing"

	"rendezvous/internal/natlab/netns"
)

// Two hosts of one network reach each other without the router, and by the
// mapped address with it, where it turns that round.
func TestHostsBesideEachOther(t *testing.T) {
	o := netns.Options{HomeNAT: netns.OpenFilter().Hairpin(), NoCarrier: true, Wire: true}
	s := netns.Standard(t, o)
	other := s.Beside(s.HomeRouter, "athome", netns.ETH, "192.168.1.3")
	echo(t, s.VPS, netns.VPSAddr+":7000")
	echo(t, other, "0.0.0.0:7002")
	conn, there := listen(t, s.Home, "0.0.0.0:7001"), listen(t, other, "0.0.0.0:7003")
	if got := mustAsk(t, conn, "192.168.1.3:7002"); got.String() != netns.HomeAddr+":7001" {
		t.Errorf("on the network it comes from %v", got)
	}
	for _, c := range []struct{ got, want string }{
		{mustAsk(t, conn, netns.VPSAddr+":7000").String(), netns.HomePublic + ":7001"},
		{mustAsk(t, there, netns.VPSAddr+":7000").String(), netns.HomePublic + ":7003"},
	} {
		if c.got != c.want {
			t.Errorf("outside it is %s, want %s", c.got, c.want)
		}
	}
	opener := listen(t, s.Home, "0.0.0.0:7005")
	mustAsk(t, opener, netns.VPSAddr+":7000")
	_ = opener.Close()
	echo(t, s.Home, "0.0.0.0:7005")
	if got := mustAsk(t, there, netns.HomePublic+":7005"); got.String() != netns.HomePublic+":7003" {
		t.Errorf("turned round it comes from %v", got)
	}
}
