package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"rendezvous/internal/path"
	"rendezvous/proto"
)

// Where the coordinator's word alone can make us send, and how little that is.
// The pinned key proves one address of the coordinator's: the one that the
// control connection reaches. It may name others, and if it turned bad, a
// victim's.
//
//   - The relay gets all data, so it is at the proven address and nowhere else.
//   - STUN servers get a few requests of 96 bytes, and only they can tell how
//     our NAT maps by address, which takes a second address (RFC 5780 section
//     4.3). So two strange addresses of each family are asked, on two ports,
//     none that punch would refuse, and none that has stayed silent for minutes,
//     until we register anew: a datagram a second at most.
//   - Everything else goes to candidates, which the peer has signed.
const (
	maxSTUNHosts = 2 // of each family, besides the proven one
	maxSTUNPorts = 2 // of each of them
	maxSilence   = 5 * time.Minute
)

// controlAddr is where the control connection is, or was last.
func (l *link) controlAddr() netip.AddrPort {
	l.mu.Lock()
	defer l.mu.Unlock()
	return netip.AddrPortFrom(l.addr.Addr().Unmap(), l.addr.Port())
}

// ownRelay is an allocation with those of its relay addresses that the
// control connection has proven. Where that is none of them (we may reach a
// coordinator by an address that it doesn't know, such as a private one) it is
// the control connection's own, whose port a relay shares.
func (a *Agent) ownRelay(alloc *proto.Allocation) *proto.Allocation {
	control := a.link.controlAddr()
	out := &proto.Allocation{Id: alloc.GetId(), Leg: alloc.GetLeg(), Key: alloc.GetKey()}
	for _, e := range alloc.GetRelay() {
		if at, ok := e.AddrPort(); ok && at.Addr() == control.Addr() {
			out.Relay = append(out.Relay, e)
		}
	}
	if len(out.Relay) == 0 && control.IsValid() {
		out.Relay = []*proto.Endpoint{proto.NewEndpoint(control)}
		a.refusals.note(a, "relay", fmt.Errorf("the coordinator names a relay at %s, but its own key was seen at %v only; that is used instead",
			endpointsText(alloc.GetRelay()), control))
	}
	if at, ok := a.link.relayDoor(); ok && len(out.Relay) > 0 {
		out.Relay[0] = proto.NewEndpoint(at)
	}
	return out
}

// relayDoor is where UDP passes to the relay for certain, if the coordinator
// does not know it: the port that the settings prefer and that was measured to
// be good, or the one that the control connection over UDP came in by, where
// that is none that it listens on but one that its host translates.
func (l *link) relayDoor() (netip.AddrPort, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.client == nil || l.how.over != proto.Transport_TRANSPORT_UDP {
		return netip.AddrPort{}, false
	}
	at := netip.AddrPortFrom(l.addr.Addr().Unmap(), l.addr.Port())
	if l.reach.preferred != 0 {
		return netip.AddrPortFrom(at.Addr(), l.reach.preferred), at.IsValid()
	}
	listens := portsOf(l.reach.doors, proto.Transport_TRANSPORT_UDP)
	return at, at.IsValid() && len(listens) > 0 && !slices.Contains(listens, at.Port())
}

// throughDoor puts the port that the control connection over UDP came in by in
// place of the one that the coordinator thinks it was: servers[0]. Both are one
// socket of the coordinator's, and are not to be asked from one socket of ours:
// the host that translates one to the other would show the second flow at
// another port than it has.
func throughDoor(servers []netip.AddrPort, how attempt) []netip.AddrPort {
	at := netip.AddrPortFrom(how.addr.Addr().Unmap(), how.addr.Port())
	if how.over == proto.Transport_TRANSPORT_UDP && len(servers) > 0 && servers[0].Addr() == at.Addr() && !slices.Contains(servers, at) {
		servers[0] = at
	}
	return servers
}

func endpointsText(list []*proto.Endpoint) string {
	const most = 3
	var text string
	for i, e := range list[:min(len(list), most)] {
		if i > 0 {
			text += ", "
		}
		at, _ := e.AddrPort()
		text += at.String()
	}
	return text
}

// errVictim is why an address of the coordinator's is not used.
var errVictim = errors.New("no STUN server is asked there")

// askable leaves of the STUN servers that the coordinator names those that we
// are willing to ask.
func (a *Agent) askable(told []*proto.Endpoint, control netip.Addr) []netip.AddrPort {
	control = control.Unmap()
	ports := make(map[netip.Addr]int)
	hosts := make(map[bool]int)
	var out []netip.AddrPort
	for _, e := range told {
		at, ok := e.AddrPort()
		if !ok || slices.Contains(out, at) {
			continue
		}
		ip := at.Addr()
		if why := a.unaskable(at, control, ports[ip], hosts[ip.Is4()]); why != "" {
			a.refusals.note(a, "STUN server", fmt.Errorf("%v: %s: %w", at, why, errVictim))
			continue
		}
		if ports[ip] == 0 && ip != control {
			hosts[ip.Is4()]++
		}
		ports[ip]++
		out = append(out, at)
	}
	return out
}

// unaskable says why the STUN server at an address is not asked; empty where
// it may be.
func (a *Agent) unaskable(at netip.AddrPort, control netip.Addr, ports, hosts int) string {
	switch {
	case at.Port() == 0:
		return "port 0"
	case ports >= maxSTUNPorts:
		return "one more port than any host needs"
	case at.Addr() == control:
		return ""
	case ports == 0 && hosts >= maxSTUNHosts:
		return "one more address than a coordinator needs"
	}
	return path.Refuse(at, path.Private(control))
}
