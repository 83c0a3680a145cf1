package main

import (
	"context"
	"net/netip"

	"rendezvous/internal/agent"
	"rendezvous/internal/path"
)

// checkRouters tells of the routers that answer the running agent. That none
// does is no fault: most pairs of agents need no mapped port.
func checkRouters(ctx context.Context, dir string) (list []finding) {
	s, err := agent.NewClient(dir).Status(ctx)
	if err != nil {
		return nil // checkDaemon says so
	}
	for _, r := range s.Routers {
		list = append(list, routerFinding(r))
	}
	return list
}

func routerFinding(r agent.RouterStatus) finding {
	f := finding{"router", good, routerText(r, nil), ""}
	ip, err := netip.ParseAddr(r.External)
	switch {
	case len(r.Mappings) == 0:
		f.verdict, f.mend = poor, "allow port mapping (UPnP, NAT-PMP or PCP) for this host in the router's settings"
	case err == nil && ip.Is4() && path.Private(ip):
		f.verdict, f.mend = poor, "turn the router in front of it into a bridge, or have it forward all to "+r.External+"; a carrier may sell an address of one's own"
	}
	return f
}
