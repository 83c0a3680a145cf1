package stun

import (
	"net/netip"
	"slices"

	"rendezvous/internal/dgram"
)

// sighting is how a server saw one socket of ours.
type sighting struct{ server, mapped netip.AddrPort }

// judgeMapping tells how the mapping of one socket depends on the destination,
// from how different servers saw it; not are the behaviours ruled out.
//
// What one address can't show (endpoint-independent or address-dependent)
// stays unknown, and so does what one port of each address can't.
func judgeMapping(seen []sighting) (b Behaviour, not []Behaviour) {
	type address struct {
		mapped netip.AddrPort
		ports  map[uint16]bool
	}
	addresses := make(map[netip.Addr]*address)
	outside := make(map[netip.AddrPort]bool)
	twoPorts := false
	for _, s := range seen {
		outside[s.mapped] = true
		a := addresses[s.server.Addr()]
		if a == nil {
			a = &address{mapped: s.mapped, ports: make(map[uint16]bool)}
			addresses[s.server.Addr()] = a
		}
		if a.mapped != s.mapped {
			return AddressAndPortDependent, []Behaviour{EndpointIndependent, AddressDependent}
		}
		a.ports[s.server.Port()] = true
		twoPorts = twoPorts || len(a.ports) > 1
	}
	switch {
	case len(addresses) > 1 && len(outside) == 1:
		return EndpointIndependent, []Behaviour{AddressDependent, AddressAndPortDependent}
	case len(outside) > 1 && twoPorts:
		return AddressDependent, []Behaviour{EndpointIndependent, AddressAndPortDependent}
	case len(outside) > 1:
		return Unknown, []Behaviour{EndpointIndependent}
	case twoPorts:
		return Unknown, []Behaviour{AddressAndPortDependent}
	}
	return Unknown, nil
}

// passage is whether an answer came in from where nothing was sent to. The
// larger proves more.
type passage uint8

const (
	untold passage = iota // the server can't tell, or can't be relied on
	stopped
	passed
)

// judgeFiltering tells how filtering depends on the source, from what became of
// answers from another address, and from another port of the same address.
func judgeFiltering(address, port passage) (b Behaviour, not []Behaviour) {
	switch {
	case address == passed:
		return EndpointIndependent, []Behaviour{AddressDependent, AddressAndPortDependent}
	case port == stopped:
		return AddressAndPortDependent, []Behaviour{EndpointIndependent, AddressDependent}
	case address == stopped && port == passed:
		return AddressDependent, []Behaviour{EndpointIndependent, AddressAndPortDependent}
	case port == passed:
		return Unknown, []Behaviour{AddressAndPortDependent}
	case address == stopped:
		return Unknown, []Behaviour{EndpointIndependent}
	}
	return Unknown, nil
}

// choice is the outside port that one new socket was given.
type choice struct{ local, outside uint16 }

// A rule for choosing ports is only believed on this evidence. Other users of
// the NAT take ports in between, so the steps need not be all alike.
const (
	minChoices = 3
	maxStep    = 64
)

// judgePorts tells how outside ports are chosen, from the choices in the order
// in which their sockets first sent.
func judgePorts(choices []choice) Ports {
	if len(choices) == 0 {
		return Ports{}
	}
	preserved := 0
	band := [2]uint16{choices[0].outside, choices[0].outside}
	for _, c := range choices {
		if c.local == c.outside {
			preserved++
		}
		band[0], band[1] = min(band[0], c.outside), max(band[1], c.outside)
	}
	// One may have found its port taken.
	if 2*preserved > len(choices) {
		return Ports{PortPreserving: true}
	}
	return Ports{PortDelta: judgeDelta(choices), PortBand: band}
}

// JudgePorts is judgePorts for who asked by other means: the local and the
// outside ports of new sockets, in the order in which they first sent.
func JudgePorts(local, outside []uint16) Ports {
	var choices []choice
	for i := range min(len(local), len(outside)) {
		choices = append(choices, choice{local[i], outside[i]})
	}
	return judgePorts(choices)
}

// judgeDelta gives the usual step where most steps are alike, or where all go
// one way and none goes far; else 0.
func judgeDelta(choices []choice) int {
	if len(choices) < minChoices {
		return 0
	}
	var steps []int
	count := make(map[int]int)
	for i, c := range choices[1:] {
		step := int(c.outside) - int(choices[i].outside)
		steps = append(steps, step)
		count[step]++
	}
	for step, n := range count {
		if 2*n > len(steps) {
			return step
		}
	}
	slices.Sort(steps)
	low, high := steps[0], steps[len(steps)-1]
	if low > 0 && high <= maxStep || high < 0 && low >= -maxStep {
		return steps[len(steps)/2]
	}
	return 0
}

// shared is the carriers' space of RFC 6598.
func shared(a netip.Addr) bool {
	a = a.Unmap()
	return a.Is4() && a.As4()[0] == 100 && a.As4()[1]&0xc0 == 64
}

// SharedSpace says whether a NAT whose own outside address is router is
// translated once more, by its carrier: the world knows it as mapped, and
// router is of the shared space (RFC 6598).
func SharedSpace(router, mapped netip.Addr) bool {
	return shared(router) && router.Unmap() != mapped.Unmap()
}

// behindCarrier says whether this host itself has a carrier's shared address,
// and the world knows it by another. Overlay networks use the same space for
// hosts which also have an ordinary address; theirs have no neighbours on the
// link (/32), and don't count.
func behindCarrier(own []dgram.HostAddr, mapped netip.Addr) bool {
	ordinary, neighbours, lone := 0, 0, 0
	for _, h := range own {
		a := h.Addr.Addr().Unmap()
		switch {
		case !h.Up || !a.Is4() || a.IsLoopback() || a.IsLinkLocalUnicast():
		case !SharedSpace(a, mapped):
			ordinary++
		case h.Addr.IsSingleIP():
			lone++
		default:
			neighbours++
		}
	}
	return neighbours > 0 || lone > 0 && ordinary == 0
}

// mayAsk says whether a server may name this address as its other one, or as
// ours, and have us send there: no worse than its own.
func mayAsk(a, server netip.Addr) bool {
	a, server = a.Unmap(), server.Unmap()
	switch {
	case !a.IsValid() || a.Is4() != server.Is4() || a.IsUnspecified() || a.IsMulticast() ||
		a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return false
	case a.IsLoopback():
		return server.IsLoopback()
	case a.IsPrivate() || a.IsLinkLocalUnicast() || shared(a):
		return server.IsPrivate() || server.IsLinkLocalUnicast() || shared(server) || server.IsLoopback()
	}
	return true
}
