package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/portmap"
	"rendezvous/proto"
)

// mapper keeps the ports of the main sockets mapped on the router here. The
// one of an agent that is not to do so has nothing.
type mapper struct {
	*portmap.Mapper
	changed chan struct{} // gets a value when the mappings have changed
}

// newMapper is without a Mapper where the settings or the host leave none.
func newMapper(a *Agent) mapper {
	m := mapper{changed: make(chan struct{}, 1)}
	if !a.cfg.Portmap || a.cfg.Host.Gateways == nil || !a.allows(path.DirectUDP) {
		return m
	}
	m.Mapper = portmap.New(portmap.Config{
		Net: a.cfg.Host.Net, TCP: a.cfg.Host.Local, Gateways: a.cfg.Host.Gateways, Fault: a.gatewayFault,
		Left: a.cfg.State.read().Mappings, Endless: func(list []portmap.Endless) {
			if err := a.cfg.State.update(func(k *kept) { k.Mappings = list }); err != nil {
				a.refusals.note(a, "state", err)
			}
		},
		Changed: func() { notice(m.changed) },
	})
	return m
}

// gatewayFault logs what a router does wrong, once each.
func (a *Agent) gatewayFault(f portmap.Fault) {
	a.cfg.Log.Info().Stringer("gateway", f.Gateway).Stringer("protocol", f.Protocol).Str("reason", f.Reason).Err(f.Err).
		Msg("the router's port mapping")
}

// run maps the ports of the main sockets until ctx ends, and takes them back.
func (m mapper) run(ctx context.Context, mains []*endpoint) {
	if m.Mapper == nil {
		return
	}
	for _, e := range mains {
		m.Map(portOfConn(e.conn))
	}
	m.Run(ctx)
}

func portOfConn(c dgram.Conn) portmap.Port {
	at := c.LocalAddr()
	return portmap.Port{Transport: portmap.UDP, Number: at.Port(), Six: !at.Addr().Unmap().Is4()}
}

// look has the router asked again after a change.
func (m mapper) look() {
	if m.Mapper != nil {
		m.Look()
	}
}

// of are the mappings of these sockets.
func (m mapper) of(endpoints []*endpoint) (list []portmap.Mapping) {
	if m.Mapper == nil {
		return nil
	}
	for _, held := range m.Mappings() {
		if slices.ContainsFunc(endpoints, func(e *endpoint) bool { return portOfConn(e.conn) == held.Port }) {
			list = append(list, held)
		}
	}
	return list
}

// addMapped puts the router's mappings of these sockets among the candidates:
// before all others, for whoever knows such an address may send to it. They
// count for nothing until a peer has proven one.
//
// One in private or shared space leads through one more NAT: it comes last and
// is of use only to peers behind that same NAT, as a host's private address is.
// A public address that no STUN server saw us from may be anybody's; peers are
// not sent there.
func (a *Agent) addMapped(g *gathered, endpoints []*endpoint) {
	list := a.mapper.of(endpoints)
	slices.Reverse(list) // each is put before the others
	for _, m := range list {
		a.addMapping(g, m, proto.Transport_TRANSPORT_UDP)
	}
}

// addMapping does it with one mapping, of whichever transport.
func (a *Agent) addMapping(g *gathered, m portmap.Mapping, over proto.Transport) {
	c := candidate{proto.CandidateType_CANDIDATE_MAPPED, m.External, over}
	switch ip := m.External.Addr(); {
	case slices.ContainsFunc(g.candidates, func(k candidate) bool {
		return k.addr == c.addr && k.transport == over && k.kind == proto.CandidateType_CANDIDATE_HOST
	}): // a pinhole: the host's own address says it all
	case !c.public():
		g.candidates = append(g.candidates, c)
	case ip.Is4() && g.seenElsewhere(ip):
		a.gatewayFault(portmap.Fault{Gateway: m.Gateway, Protocol: m.Protocol, Reason: "other-address",
			Err: fmt.Errorf("the router says that its address is %v, and STUN servers see us at %v; peers are not sent there", ip, g.outside)})
	default:
		g.candidates = slices.Insert(g.candidates, 0, c)
	}
}

// seenElsewhere says whether STUN servers saw us, and not from ip.
func (g gathered) seenElsewhere(ip netip.Addr) bool {
	four := slices.ContainsFunc(g.outside, netip.Addr.Is4)
	return four && !slices.Contains(g.outside, ip)
}

// mappedApart says whether what we send leaves by another port than the one
// that the router maps to us. Then a peer has to speak first: what we had sent
// to its address would hold the connection tracking entry that its datagram to
// the mapped port needs, and our answers would leave by the other port.
func (g gathered) mappedApart() bool {
	var mapped, seen []netip.AddrPort
	for _, c := range g.candidates {
		switch {
		case c.transport != proto.Transport_TRANSPORT_UDP || !c.addr.Addr().Is4():
		case c.kind == proto.CandidateType_CANDIDATE_MAPPED && c.public():
			mapped = append(mapped, c.addr)
		case c.kind == proto.CandidateType_CANDIDATE_SERVER_REFLEXIVE:
			seen = append(seen, c.addr)
		}
	}
	return len(mapped) > 0 && len(seen) > 0 && !slices.ContainsFunc(mapped, func(m netip.AddrPort) bool { return slices.Contains(seen, m) })
}

// RouterStatus is what the router here does for us (`agent status`,
// `agent netcheck`).
type RouterStatus struct {
	Gateway string `json:"gateway"`
	// Protocols are those that it answers: pcp, nat-pmp, upnp.
	Protocols []string `json:"protocols"`
	// External is its address, as it says; "" where it told none.
	External string          `json:"external,omitempty"`
	Mappings []MappingStatus `json:"mappings"`
}

// MappingStatus is a port that the router leads to us.
type MappingStatus struct {
	Protocol string    `json:"protocol"`
	Internal string    `json:"internal"`
	External string    `json:"external"`
	Until    time.Time `json:"until,omitzero"` // when it ends, unless renewed; absent: never
}

// RoutersOf are the routers that answered, of all that were asked.
func RoutersOf(states []portmap.State) []RouterStatus {
	all := []RouterStatus{}
	for _, s := range states {
		if len(s.Answered) == 0 {
			continue
		}
		r := RouterStatus{Gateway: s.Gateway.String(), Protocols: []string{}, Mappings: []MappingStatus{}}
		for _, p := range s.Answered {
			r.Protocols = append(r.Protocols, p.String())
		}
		if s.External.IsValid() {
			r.External = s.External.String()
		}
		for _, m := range s.Mappings {
			r.Mappings = append(r.Mappings, MappingStatus{m.Protocol.String(), m.Internal.String(), m.External.String(), m.Until})
		}
		all = append(all, r)
	}
	return all
}

// routers are those of this agent.
func (m mapper) routers() []RouterStatus {
	if m.Mapper == nil {
		return nil
	}
	return RoutersOf(m.States())
}
