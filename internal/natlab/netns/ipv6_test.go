//go:build linux

package netns_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
)

func TestIPv6HasNoNATButAFirewall(t *testing.T) {
	for _, test := range []netns.Options{{IPv6: true}, {IPv6: true, Wire: true, NoCarrier: true}} {
		t.Run(fmt.Sprintf("wire %v", test.Wire), func(t *testing.T) {
			s := netns.Standard(t, test)
			for _, h := range []*netns.Host{s.Home, s.Laptop} {
				h.Ping(netns.VPSIPv6, 3*time.Second)
			}
			if _, err := s.VPS.Try("ping", "-c1", "-W1", netns.HomeIPv6); err == nil {
				t.Error("home answers a ping that it did not ask for")
			}
			if n := s.HomeRouter.Counter("unsolicited6").Packets; n != 1 {
				t.Errorf("the home's firewall counted %d unsolicited packets, want 1", n)
			}
			if s.Internet == nil {
				return
			}
			out, _ := s.Laptop.Try("ping", "-n", "-c1", "-W1", "-t3", netns.VPSIPv6)
			if !strings.Contains(out, "2001:db8::2") {
				t.Errorf("hop limit 3 ended elsewhere: %s", out)
			}
		})
	}
}
