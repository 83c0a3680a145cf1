package rendezvous

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/dgram"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// socket is one of the coordinator's UDP sockets. Control, STUN and relay share
// each of them, so that one open port is enough.
type socket struct {
	conn      dgram.Conn
	public    netip.Addr // what agents are told; the zero Addr: what Route says
	at        stun.Socket
	group     *stunGroup
	packets   *dgram.PacketConn
	transport *quic.Transport
	listener  *quic.Listener
}

// stunGroup is the sockets of one family, which answer for one another.
type stunGroup struct {
	responder *stun.Responder
	conns     [2][2]dgram.Conn
}

// place is where a socket is to be.
type place struct {
	addr   netip.Addr // to bind, perhaps unspecified
	public netip.Addr // to tell agents; the zero Addr where it is not known
	index  uint8      // of the address in its family
}

// plan says on which addresses to open sockets: on those public addresses that
// are local, since only a socket bound to its address surely answers from it;
// else on the address to listen on; else on all of a family.
func plan(listen netip.Addr, public, local []netip.Addr) []place {
	var out []place
	for _, family := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		same := func(a netip.Addr) bool { return a.Is4() == family.Is4() }
		outside := slices.DeleteFunc(slices.Clone(public), func(a netip.Addr) bool { return !same(a) })
		own := slices.DeleteFunc(slices.Clone(outside), func(a netip.Addr) bool { return !slices.Contains(local, a) })
		specific := listen.IsValid() && !listen.IsUnspecified()
		switch {
		case listen.IsValid() && !same(listen):
			continue
		case specific && !slices.Contains(own, listen):
			own = []netip.Addr{listen}
		case len(own) == 0:
			own = []netip.Addr{family}
		}
		for i, a := range own[:min(len(own), 2)] {
			p := place{addr: a, index: uint8(i), public: a}
			if !slices.Contains(outside, a) && len(outside) > 0 {
				p.public = outside[0] // a NAT stands before this host
			} else if a.IsUnspecified() {
				p.public = netip.Addr{}
			}
			out = append(out, p)
		}
	}
	return out
}

// openSockets opens what plan says, the main port and then the alternate.
func openSockets(c *Config) (all []*socket, err error) {
	defer func() {
		if err != nil {
			for _, s := range all {
				err = errors.Join(err, s.conn.Close())
			}
			all = nil
		}
	}()
	local, err := localAddrs(c.Network)
	if err != nil {
		return nil, err
	}
	ports := []int{int(c.Listen.Port()), c.Alternate}
	for _, p := range plan(c.Listen.Addr(), c.Public, local) {
		for i := range ports {
			if ports[i] == NoAlternate {
				continue
			}
			conn, err := c.Network.ListenUDP(netip.AddrPortFrom(p.addr, uint16(ports[i])))
			if errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EADDRNOTAVAIL) && p.addr.IsUnspecified() {
				continue // the host has no such family
			}
			if err != nil {
				return all, explainListen(err, p.addr, ports[i], i == 1)
			}
			all = append(all, &socket{conn: conn, public: p.public, at: stun.Socket{Address: p.index, Port: uint8(i)}})
			ports[i] = int(conn.LocalAddr().Port()) // the other addresses take the same port
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("listen on %v: this host has neither IPv4 nor IPv6", c.Listen)
	}
	return all, nil
}

func explainListen(err error, addr netip.Addr, port int, alternate bool) error {
	at := netip.AddrPortFrom(addr, uint16(port))
	key := "--listen"
	if alternate {
		key = "`alternate_port:` in the configuration"
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("listen on UDP %v: the port is in use; `ss -ulpn sport = :%d` shows by whom; stop that, or choose another port with %s", at, port, key)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("listen on UDP %v: permission denied; ports below 1024 want root or CAP_NET_BIND_SERVICE, or choose another port with %s", at, key)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Errorf("listen on UDP %v: this host has no such address; `ip address` shows those it has", at)
	}
	return fmt.Errorf("listen on UDP %v: %w", at, err)
}

func localAddrs(n dgram.Network) ([]netip.Addr, error) {
	hosts, err := n.Addrs()
	if err != nil {
		return nil, fmt.Errorf("list the addresses of this host: %w", err)
	}
	out := make([]netip.Addr, 0, len(hosts))
	for _, h := range hosts {
		out = append(out, h.Addr.Addr().Unmap())
	}
	return out, nil
}

// group lets the sockets of each family answer STUN together.
func group(all []*socket) {
	for _, v4 := range []bool{true, false} {
		g := new(stunGroup)
		var outside stun.Sockets
		for _, s := range all {
			local := s.conn.LocalAddr()
			if local.Addr().Is4() != v4 {
				continue
			}
			known := local.Addr()
			if s.public.IsValid() {
				known = s.public
			}
			outside[s.at.Address][s.at.Port] = netip.AddrPortFrom(known, local.Port())
			g.conns[s.at.Address][s.at.Port] = s.conn
			s.group = g
		}
		g.responder = stun.NewResponder(outside)
	}
}

// answer answers a STUN request that came in on s.
func (s *socket) answer(now time.Time, from netip.AddrPort, request []byte) error {
	a, ok := s.group.responder.Answer(now, s.at, from, request)
	if !ok {
		return nil // counted by the responder
	}
	out := s.group.conns[a.From.Address&1][a.From.Port&1]
	if out == nil {
		return nil
	}
	return out.Write(dgram.One(a.To, a.Message))
}

// endpoints are where an agent that came in on socket in reaches all sockets,
// for STUN and for the relay, best first: the one that it came in on, which
// surely passes its firewall, then others of its family, then the rest.
func (s *Server) endpoints(in *socket, agent netip.Addr) []*proto.Endpoint {
	var routed netip.Addr
	if s.config.Route != nil {
		if a, ok := s.config.Route(agent); ok {
			routed = a.Unmap()
		}
	}
	var out, others []*proto.Endpoint
	for _, each := range s.sockets {
		local, public := each.conn.LocalAddr(), each.public
		near := local.Addr().Is4() == agent.Is4()
		if !public.IsValid() && near {
			public = routed
		}
		if !public.IsValid() {
			public = s.guess[local.Addr().Is4()]
		}
		if !public.IsValid() {
			continue
		}
		e := proto.NewEndpoint(netip.AddrPortFrom(public, local.Port()))
		switch {
		case each == in:
			out = slices.Insert(out, 0, e)
		case near:
			out = append(out, e)
		default:
			others = append(others, e)
		}
	}
	return append(out, others...)
}

// OutsideAddr is the address of a family by which this host is most likely
// reached, where nobody said: a global one rather than a private one.
func OutsideAddr(n dgram.Network, v4 bool) (netip.Addr, bool) {
	hosts, err := n.Addrs()
	if err != nil {
		return netip.Addr{}, false
	}
	best, found := netip.Addr{}, false
	for _, h := range hosts {
		a := h.Addr.Addr().Unmap()
		if !h.Up || a.Is4() != v4 || !a.IsGlobalUnicast() {
			continue
		}
		if !found || best.IsPrivate() && !a.IsPrivate() {
			best, found = a, true
		}
	}
	return best, found
}
