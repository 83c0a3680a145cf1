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
	udpAt   []netip.AddrPort // doors over UDP at the proven address, the one that answered first
	fakeTCP []netip.AddrPort // doors over fake TCP at the proven address, best first
	tls     []string         // HOST:PORT of doors over TLS, best first; through a proxy by name
}

// learned is what the link has learned about ways.
type learned struct {
	udp   passes
	doors []Door   // told at register, or of an earlier run
	tls   []string // HOST:PORT where TLS answered in this network, newest first
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

// ways tells what reaches the coordinator.
func (l *link) ways() ways {
	c := l.a.cfg.State.Coordinator()
	l.mu.Lock()
	r, at := l.reach, netip.AddrPortFrom(l.addr.Addr().Unmap(), l.addr.Port())
	l.mu.Unlock()
	w := ways{udp: r.udp == unknown || r.udp == yes, udpDead: r.udp == no}
	if l.a.cfg.RelayTLS != nil {
		w.tls = slices.Clone(r.tls)
	}
	if !at.IsValid() {
		return w
	}
	w.udpAt = append(w.udpAt, at)
	for _, port := range portsOf(r.doors, proto.Transport_TRANSPORT_UDP) {
		if port != at.Port() {
			w.udpAt = append(w.udpAt, netip.AddrPortFrom(at.Addr(), port))
		}
	}
	if l.a.cfg.FakeTCP != nil {
		for _, port := range portsOf(r.doors, proto.Transport_TRANSPORT_FAKE_TCP) {
			w.fakeTCP = append(w.fakeTCP, netip.AddrPortFrom(at.Addr(), port))
		}
	}
	if l.a.cfg.RelayTLS == nil {
		return w
	}
	for _, port := range portsOf(r.doors, proto.Transport_TRANSPORT_TLS) {
		for _, host := range []string{at.Addr().String(), hostOf(c.Addr)} {
			if s := net.JoinHostPort(host, strconv.Itoa(int(port))); host != "" && !slices.Contains(w.tls, s) {
				w.tls = append(w.tls, s)
			}
		}
	}
	return w
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return host
}
