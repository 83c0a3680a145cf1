package rendezvous

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/dgram"
	"rendezvous/internal/share"
	"rendezvous/internal/stun"
	"rendezvous/internal/veil"
	"rendezvous/proto"
)

// spot is an address, port and transport that the coordinator is open on.
type spot struct {
	transport proto.Transport
	local     netip.AddrPort
	public    netip.Addr // what agents are told; the zero Addr: what Route says
	at        stun.Socket
	extra     bool // neither the main port nor the alternate
	group     *stunGroup
}

// socket is one of the coordinator's sockets for datagrams, over UDP or
// dressed as TCP. Control, STUN and relay share each of them, so that one open
// port is enough.
type socket struct {
	spot
	conn     dgram.Conn
	packets  *dgram.PacketConn
	quic     *quic.Transport
	listener *quic.Listener
	shared   *share.Door // nil: all that comes is ours
	veil     *veil.Conn
}

// stunGroup is the sockets of one family and transport, which answer for one
// another.
type stunGroup struct {
	responder *stun.Responder
	conns     [2][2]dgram.Conn // empty for TCP, where an answer takes the connection
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

// group lets the spots of each family and transport answer STUN together; the
// extra ports answer for themselves.
func group(all []*spot) {
	type kind struct {
		transport proto.Transport
		v4        bool
	}
	outside := map[*stunGroup]*stun.Sockets{}
	groups := map[kind]*stunGroup{}
	for _, s := range all {
		of := kind{s.transport, s.local.Addr().Is4()}
		g := groups[of]
		if g == nil || s.extra {
			g = new(stunGroup)
			outside[g] = new(stun.Sockets)
		}
		if !s.extra {
			groups[of] = g
		}
		known := s.local.Addr()
		if s.public.IsValid() {
			known = s.public
		}
		outside[g][s.at.Address&1][s.at.Port&1] = netip.AddrPortFrom(known, s.local.Port())
		s.group = g
	}
	for g, sockets := range outside {
		g.responder = stun.NewResponder(*sockets)
	}
}

// answer answers a STUN request that came in on s. Only over UDP another
// socket can answer for it: over TCP nobody would have opened to that one.
func (s *socket) answer(now time.Time, from netip.AddrPort, request []byte) error {
	a, ok := s.group.responder.Answer(now, s.at, from, request)
	if !ok {
		return nil // counted by the responder
	}
	out := s.group.conns[a.From.Address&1][a.From.Port&1]
	if out == nil || s.transport != proto.Transport_TRANSPORT_UDP && (out != s.conn || a.To != from) {
		return nil
	}
	return out.Write(dgram.One(a.To, a.Message))
}

// endpoints are where an agent that came in at a spot reaches the sockets over
// UDP, for STUN and for the relay, best first: the port that it came in on,
// which surely passes its firewall, then others of its family, then the rest.
// The extra ports are told as doors alone: all answer alike, and two ports are
// enough to see how a NAT maps.
func (s *Server) endpoints(in *spot, agent netip.Addr) []*proto.Endpoint {
	var routed netip.Addr
	if s.config.Route != nil {
		if a, ok := s.config.Route(agent); ok {
			routed = a.Unmap()
		}
	}
	var out, others []*proto.Endpoint
	for _, each := range s.sockets {
		local, public := each.local, each.public
		if each.transport != proto.Transport_TRANSPORT_UDP || each.extra && local != in.local {
			continue
		}
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
		case local == in.local:
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
