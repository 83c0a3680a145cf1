package main

import (
	"net/netip"
	"slices"
	"testing"

	"rendezvous/internal/agent"
	"rendezvous/internal/portmap"
)

func TestRouters(t *testing.T) {
	port := portmap.Port{Transport: portmap.UDP, Number: 40112}
	mapped := portmap.Mapping{Port: port, Protocol: portmap.UPnP, Internal: netip.MustParseAddrPort("192.168.1.2:40112"), External: netip.MustParseAddrPort("198.51.100.1:40112")}
	shared := mapped
	shared.External = netip.MustParseAddrPort("100.64.0.2:40112")
	elsewhere := mapped
	elsewhere.External = netip.MustParseAddrPort("203.0.113.77:40112")
	gateway := netip.MustParseAddr("192.168.1.1")
	for name, c := range map[string]struct {
		states  []portmap.State
		speaks  []string
		cgnat   bool
		text    string
		verdict verdict
	}{
		"none": {[]portmap.State{{Gateway: gateway}}, []string{}, false, "no router here answers PCP, NAT-PMP or UPnP", good},
		"one that maps": {[]portmap.State{{Gateway: gateway, Answered: []portmap.Protocol{portmap.NATPMP, portmap.UPnP}, External: mapped.External.Addr(), Mappings: []portmap.Mapping{mapped}}},
			[]string{"nat-pmp", "upnp"}, false, "192.168.1.1 speaks nat-pmp, upnp, maps 198.51.100.1:40112 by upnp", good},
		"one behind a carrier's NAT": {[]portmap.State{{Gateway: gateway, Answered: []portmap.Protocol{portmap.UPnP}, External: shared.External.Addr(), Mappings: []portmap.Mapping{shared}}},
			[]string{"upnp"}, true, "192.168.1.1 speaks upnp, maps 100.64.0.2:40112 by upnp, and is behind another NAT itself", poor},
		"one whose public address is translated once more": {[]portmap.State{{Gateway: gateway, Answered: []portmap.Protocol{portmap.PCP}, External: elsewhere.External.Addr(), Mappings: []portmap.Mapping{elsewhere}}},
			[]string{"pcp"}, true, "192.168.1.1 speaks pcp, maps 203.0.113.77:40112 by upnp, and is behind another NAT itself: its own address is 203.0.113.77", good},
		"one that refuses": {[]portmap.State{{Gateway: gateway, Answered: []portmap.Protocol{portmap.PCP}}}, []string{"pcp"}, false, "192.168.1.1 speaks pcp, and maps no port", poor},
	} {
		n := agent.Netcheck{Portmap: []string{}, Mapped: []string{"[2001:db8::1]:40112", "198.51.100.1:40112", "198.51.100.2:40113"}}
		addRouters(&n, c.states)
		if text := routersText(n.Routers, n.Mapped); !slices.Equal(n.Portmap, c.speaks) || n.CGNAT != c.cgnat || text != c.text {
			t.Errorf("%s: %v, cgnat %v, %q", name, n.Portmap, n.CGNAT, text)
		}
		for _, r := range n.Routers {
			if f := routerFinding(r); f.verdict != c.verdict || (f.mend == "") != (c.verdict == good) {
				t.Errorf("%s: doctor says %+v", name, f)
			}
		}
	}
}
