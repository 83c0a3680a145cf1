package agent

import (
	"net"
	"net/netip"
	"slices"
	"strconv"

	"rendezvous/proto"
)

// ways is what reaches the coordinator from this network, as far as it is
// known now.
type ways struct {
	udp     bool             // datagrams pass to it over UDP, or nothing is known yet
	udpDead bool             // it was asked over UDP for seconds, and silent; neither: that is being found out
	udpAt   []netip.AddrPort // doors over UDP at the proven address, best first
	fakeTCP []netip.AddrPort // doors over fake TCP at the proven address, best first
	tls     []string         // HOST:PORT of doors over TLS, best first; through a proxy by name
}

// learned is what the link has learned about ways.
type learned struct {
	udp   passes
	doors []Door   // told at register, or of an earlier run
	tls   []string // HOST:PORT where TLS answered in this network, newest first
	// preferred is the port over UDP that was measured to be the best of those
	// that the settings name; 0 where none was.
	preferred uint16
	trials    []trial // that said so
	// observed is where the pinned coordinator saw a main socket when we
	// registered over UDP; zero where it may be nobody else's mapping.
	observed sighting
}

// maxTLS bounds the ways over TLS that are remembered.
const maxTLS = 4

// took notes how the coordinator was reached.
func (r *learned) took(how attempt) {
	switch how.over {
	case proto.Transport_TRANSPORT_UDP:
		r.udp = yes
		return
	case proto.Transport_TRANSPORT_TLS:
		old := slices.DeleteFunc(slices.Clone(r.tls), func(at string) bool { return at == how.at })
		r.tls = append([]string{how.at}, old[:min(len(old), maxTLS-1)]...)
	}
	if r.udp != no {
		r.udp = doubtful
	}
}

// passes says whether something gets through.
type passes uint8

const (
	unknown passes = iota
	yes
	doubtful // something else was faster
	no
)

// Door is a port on which the coordinator's addresses are open.
type Door struct {
	Transport proto.Transport `json:"transport"`
	Port      uint16          `json:"port"`
}

// maxDoors bounds what a coordinator can make us try and remember.
const maxDoors = 32

// doorsTold reads the doors of a registration.
func doorsTold(told []*proto.Door) (doors []Door) {
	for _, d := range told[:min(len(told), maxDoors)] {
		door := Door{d.GetTransport(), uint16(d.GetPort())}
		if d.GetPort() > 0 && d.GetPort() <= 0xffff && !slices.Contains(doors, door) {
			doors = append(doors, door)
		}
	}
	return doors
}

// portsOf are the ports of the doors of one transport.
func portsOf(doors []Door, t proto.Transport) (ports []uint16) {
	for _, d := range doors {
		if d.Transport == t {
			ports = append(ports, d.Port)
		}
	}
	return ports
}

// order is the ports of a transport: that of the control connection first, if
// it takes this transport, then those where another transport over TCP passed,
// and those that networks let pass rather than others.
func (r *learned) order(t proto.Transport, how attempt) []uint16 {
	ports := portsOf(r.doors, t)
	if how.over == t && how.port() != 0 && !slices.Contains(ports, how.port()) {
		ports = append(ports, how.port())
	}
	rank := func(port uint16) int {
		i := slices.Index(wellKnown[:], port)
		switch {
		case port == how.port() && (how.over == t || how.over != proto.Transport_TRANSPORT_UDP && t != proto.Transport_TRANSPORT_UDP):
			return -1
		case i < 0:
			return len(wellKnown)
		}
		return i
	}
	slices.SortStableFunc(ports, func(a, b uint16) int { return rank(a) - rank(b) })
	return ports
}

// ways tells what reaches the coordinator.
func (l *link) ways() ways {
	c := l.a.cfg.State.Coordinator()
	l.mu.Lock()
	r, at, how := l.reach, l.addr.Addr().Unmap(), l.how
	l.mu.Unlock()
	w := ways{udp: r.udp == unknown || r.udp == yes, udpDead: r.udp == no}
	if l.a.cfg.Dialers.RelayTLS != nil {
		w.tls = slices.Clone(r.tls)
	}
	if !at.IsValid() {
		return w
	}
	for _, port := range r.order(proto.Transport_TRANSPORT_UDP, how) {
		w.udpAt = append(w.udpAt, netip.AddrPortFrom(at, port))
	}
	if l.a.cfg.Host.FakeTCP != nil {
		for _, port := range r.order(proto.Transport_TRANSPORT_FAKE_TCP, how) {
			w.fakeTCP = append(w.fakeTCP, netip.AddrPortFrom(at, port))
		}
	}
	if l.a.cfg.Dialers.RelayTLS == nil {
		return w
	}
	for _, port := range r.order(proto.Transport_TRANSPORT_TLS, how) {
		for _, host := range []string{at.String(), hostOf(c.Addr)} {
			if s := net.JoinHostPort(host, strconv.Itoa(int(port))); host != "" && !slices.Contains(w.tls, s) {
				w.tls = append(w.tls, s)
			}
		}
	}
	return w
}
