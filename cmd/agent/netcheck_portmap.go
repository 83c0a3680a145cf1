package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/portmap"
)

// routersWithin bounds what the routers take: three protocols at once, a
// mapping, and to take it back.
const routersWithin = 5 * time.Second

// askRouters asks the routers here for a port of each family and gives it
// back. Where no socket is to be had, nobody is asked.
func askRouters(ctx context.Context) []portmap.State {
	ctx, cancel := context.WithTimeout(ctx, routersWithin)
	defer cancel()
	network := dgram.System(dgram.DefaultOptions())
	var ports []portmap.Port
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		// The socket keeps others from the port while it is mapped.
		conn, err := network.ListenUDP(netip.AddrPortFrom(family, 0))
		if err != nil {
			continue
		}
		defer func() { _ = conn.Close() }()
		ports = append(ports, portmap.Port{Transport: portmap.UDP, Number: conn.LocalAddr().Port(), Six: family.Is6()})
	}
	return portmap.Check(ctx, portmap.Config{Net: network, TCP: dgram.PlainStreams()}, ports...)
}

// addRouters tells what they answered. A router whose own address is private
// or shared is itself behind a NAT, and so is one whose address is none of those
// that servers see us at.
func addRouters(n *agent.Netcheck, states []portmap.State) {
	n.Routers = agent.RoutersOf(states)
	for _, s := range states {
		n.CGNAT = n.CGNAT || translatedAgain(s.External, n.Mapped)
		for _, p := range s.Answered {
			if !slices.Contains(n.Portmap, p.String()) {
				n.Portmap = append(n.Portmap, p.String())
			}
		}
	}
}

// translatedAgain says whether a router with this outside address is behind one
// more NAT, where servers see us at these addresses.
func translatedAgain(external netip.Addr, mapped []string) bool {
	if !external.Is4() {
		return false
	}
	seen, known := false, false
	for _, text := range mapped {
		at, err := netip.ParseAddrPort(text)
		if err != nil || !at.Addr().Is4() {
			continue
		}
		known, seen = true, seen || at.Addr() == external
	}
	return path.Private(external) || known && !seen
}

// routersText is what the routers here do, in a line.
func routersText(list []agent.RouterStatus, mapped []string) string {
	if len(list) == 0 {
		return "no router here answers PCP, NAT-PMP or UPnP"
	}
	var all []string
	for _, r := range list {
		all = append(all, routerText(r, mapped))
	}
	return strings.Join(all, "; ")
}

func routerText(r agent.RouterStatus, mapped []string) string {
	text := fmt.Sprintf("%s speaks %s", r.Gateway, strings.Join(r.Protocols, ", "))
	if len(r.Mappings) == 0 {
		return text + ", and maps no port"
	}
	for _, m := range r.Mappings {
		text += fmt.Sprintf(", maps %s by %s", m.External, m.Protocol)
	}
	if ip, err := netip.ParseAddr(r.External); err == nil && translatedAgain(ip, mapped) {
		text += ", and is behind another NAT itself"
		if len(r.Mappings) == 0 || !path.Private(ip) {
			text += ": its own address is " + r.External
		}
	}
	return text
}
