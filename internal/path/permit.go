package path

import (
	"net/netip"
	"slices"
)

var (
	shared100 = netip.MustParsePrefix("100.64.0.0/10") // RFC 6598: between a home and its carrier's NAT
	reserved  = []netip.Prefix{
		netip.MustParsePrefix("0.0.0.0/8"),
		netip.MustParsePrefix("240.0.0.0/4"), // reserved, and the limited broadcast address
		netip.MustParsePrefix("fec0::/10"),
		netip.MustParsePrefix("100::/64"), // RFC 6666: discarded on the way
	}
	transitions = []netip.Prefix{
		netip.MustParsePrefix("::/96"),          // RFC 4291 section 2.5.5.1: IPv4-compatible
		netip.MustParsePrefix("64:ff9b::/96"),   // RFC 6052: NAT64
		netip.MustParsePrefix("64:ff9b:1::/48"), // RFC 8215: NAT64 within one network
		netip.MustParsePrefix("2001::/32"),      // RFC 4380: Teredo
		netip.MustParsePrefix("2002::/16"),      // RFC 3056: 6to4
	}
)

// Transition says whether a is IPv6 that travels as IPv4, or is translated to
// it, by somebody on the way. A path over that adds nothing where IPv4 passes,
// and such an address hides one of IPv4 that may be refused.
func Transition(a netip.Addr) bool {
	a = a.Unmap()
	return slices.ContainsFunc(transitions, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Private says whether a is of a range that means another host in another
// network: RFC 1918, RFC 6598, unique local.
func Private(a netip.Addr) bool {
	a = a.Unmap()
	return a.IsPrivate() || shared100.Contains(a)
}

// Refuse says why nothing may be sent to a, empty where it may: never to
// loopback, multicast, broadcast, unspecified or transition addresses, and to private ones
// only if both agents share an outside address, so that a peer can't aim us
// at a stranger in our own network.
func Refuse(a netip.AddrPort, sharedOutside bool) string {
	ip := a.Addr().Unmap()
	switch {
	case !ip.IsValid() || ip.IsUnspecified():
		return "unspecified"
	case ip.IsLoopback():
		return "loopback"
	case ip.IsMulticast():
		return "multicast"
	case ip.IsLinkLocalUnicast():
		return "link-local"
	case a.Port() == 0:
		return "port 0"
	case Transition(ip):
		return "an IPv6 transition address"
	case Private(ip) && !sharedOutside:
		return "private, and the peer is not behind our outside address"
	}
	for _, p := range reserved {
		if p.Contains(ip) {
			return "reserved"
		}
	}
	return ""
}

// Budget bounds what a peer's list of candidates can make us send.
type Budget struct {
	Addrs int // different addresses
	Ports int // ports at each address
}

// DefaultBudget is enough for both families, a host with several interfaces
// and a NAT that shows several ports.
var DefaultBudget = Budget{Addrs: 8, Ports: 4}

// Permitted sorts out which candidates may be probed. The second result says
// of each refused one why.
func Permitted(candidates []netip.AddrPort, sharedOutside bool, b Budget) (allowed []netip.AddrPort, refused []string) {
	ports := make(map[netip.Addr]int)
	seen := make(map[netip.AddrPort]bool)
	for _, c := range candidates {
		c = netip.AddrPortFrom(c.Addr().Unmap(), c.Port())
		if seen[c] {
			continue
		}
		seen[c] = true
		why := Refuse(c, sharedOutside)
		_, known := ports[c.Addr()]
		switch {
		case why != "":
		case !known && len(ports) >= b.Addrs:
			why = "over the budget of addresses"
		case ports[c.Addr()] >= b.Ports:
			why = "over the budget of ports"
		}
		if why != "" {
			refused = append(refused, c.String()+" ("+why+")")
			continue
		}
		ports[c.Addr()]++
		allowed = append(allowed, c)
	}
	return allowed, refused
}

// Translated is where among a peer's candidates its NAT may be: public addresses
// of IPv4, in their order.
func Translated(candidates []netip.AddrPort) (at []netip.AddrPort) {
	for _, c := range candidates {
		if c.Addr().Unmap().Is4() && !Private(c.Addr()) {
			at = append(at, c)
		}
	}
	return at
}

// Turn says whether the i-th of our sockets of a family is for this candidate,
// where each may have one of those behind the peer's NAT only: our own keeps a
// socket's port towards the first destination, and no other.
func Turn(i int, to netip.AddrPort, among []netip.AddrPort) bool {
	if !to.Addr().Unmap().Is4() || Private(to.Addr()) {
		return true
	}
	at := Translated(among)
	return slices.Index(at, to) == i%len(at)
}
