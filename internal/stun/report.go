package stun

import (
	"net/netip"
	"slices"
)

// Report is what Discover found out, in the form of `agent netcheck --json`.
// What isn't known is Unknown, false or zero.
type Report struct {
	UDP  bool `json:"udp"` // a server answered
	IPv4 bool `json:"ipv4"`
	IPv6 bool `json:"ipv6"`
	// Mapped are the outside addresses of one local socket per family: several
	// of one family where the mapping depends on the destination.
	Mapped []netip.AddrPort `json:"mapped"`
	// Pool are the outside addresses of all the sockets that were seen, not of
	// that one alone: several where a NAT takes any of its own.
	Pool      []netip.Addr `json:"pool,omitempty"`
	Mapping   Behaviour    `json:"mapping"`
	Filtering Behaviour    `json:"filtering"`
	// MappingNot and FilteringNot are the behaviours that were ruled out. They
	// say something where the behaviour itself is unknown: a server with one
	// address can't tell all behaviours apart.
	MappingNot   []Behaviour `json:"mapping_not,omitempty"`
	FilteringNot []Behaviour `json:"filtering_not,omitempty"`
	Ports
	// Hairpin: what one of our sockets sent to the outside address of another
	// came back in. False where there is no NAT.
	Hairpin bool `json:"hairpin"`
	// CGNAT: the carrier translates too. Discover only sees it where this host
	// itself has an address of the shared space (RFC 6598). Behind a router,
	// BehindCarrier can find it; and SharedSpace tells it from the router's
	// own outside address, where PCP, NAT-PMP or UPnP gave that.
	CGNAT bool `json:"cgnat"`
	// MappingLifetime is in seconds; Discover doesn't measure it, so it is 0.
	MappingLifetime int `json:"mapping_lifetime_s"`
	// Servers are those that answered.
	Servers []netip.AddrPort `json:"servers"`
}

// Ports say how the NAT chooses outside ports, seen over several new sockets.
type Ports struct {
	// PortPreserving: the outside port is the local one.
	PortPreserving bool `json:"port_preserving"`
	// PortDelta is the difference between a mapping's port and the next one's,
	// 0 where there is no such rule.
	PortDelta int `json:"port_delta"`
	// PortBand is the lowest and the highest port seen, where ports aren't
	// preserved.
	PortBand [2]uint16 `json:"port_band"`
}

// pool takes in an outside address.
func (r *Report) pool(a netip.Addr) {
	if !slices.Contains(r.Pool, a) {
		r.Pool = append(r.Pool, a)
	}
}

// merge puts two families' reports together. The behaviour is that of the
// first, unless nobody answered there.
func merge(first, second Report) Report {
	if !first.UDP {
		first, second = second, first
	}
	first.IPv4 = first.IPv4 || second.IPv4
	first.IPv6 = first.IPv6 || second.IPv6
	first.Mapped = append(first.Mapped, second.Mapped...)
	first.Pool = append(first.Pool, second.Pool...)
	first.Servers = append(first.Servers, second.Servers...)
	return first
}
