package stun

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// How long DiscoverTCP takes at most. A lost SYN is repeated after a second,
// so nothing is given up before two of them could have been lost.
const (
	maxTCPDiscovery = 8 * time.Second
	// After the first answer the others have this long, or three round trips.
	tcpGrace = 500 * time.Millisecond
)

// tcpServers is how many connections DiscoverTCP makes at most: another port
// and another address tell on what the mapping depends.
const tcpServers = 3

// TCPReport is what DiscoverTCP found out, in the form of `agent netcheck
// --json`. What isn't known is Unknown, false or zero. The NAT may well treat
// UDP otherwise.
type TCPReport struct {
	TCP bool `json:"tcp"` // a server answered
	// Local is the port that was asked from, shared by all connections.
	Local netip.AddrPort `json:"local"`
	// Mapped are its outside addresses: several where the mapping depends on
	// the destination.
	Mapped     []netip.AddrPort `json:"mapped"`
	Mapping    Behaviour        `json:"mapping"`
	MappingNot []Behaviour      `json:"mapping_not,omitempty"`
	// PortPreserving: each outside port was the local one.
	PortPreserving bool `json:"port_preserving"`
	// RTT is the shortest round trip of a request.
	RTT time.Duration `json:"rtt_ns"`
	// Servers are those that answered.
	Servers []netip.AddrPort `json:"servers"`
}

// DiscoverTCP finds out how the NAT before this host maps TCP connections (RFC
// 5780 section 4.3, over TCP): it asks up to three STUN servers from one local
// port. Give the addresses and ports of a coordinator, best first; those of the
// other family than local are left out. Where local's port is 0 the first
// connection picks one. Filtering can't be asked over TCP: a server can't
// answer from elsewhere.
//
// The connections that answered are the caller's to close; while they are open
// the NAT keeps the mapping. It is an error when no server answers.
func DiscoverTCP(ctx context.Context, streams dgram.Streams, local netip.AddrPort, servers []netip.AddrPort) (TCPReport, []net.Conn, error) {
	s := &tcpSurvey{streams: streams, local: plain(local)}
	chosen := chooseTCP(s.local.Addr(), servers)
	if len(chosen) == 0 {
		return TCPReport{}, nil, fmt.Errorf("discover how the NAT maps TCP from %v: no STUN server of that address family given; name one that answers on TCP", local)
	}
	ctx, cancel := context.WithTimeout(ctx, maxTCPDiscovery)
	defer cancel()
	if s.local.Port() == 0 && !s.pick(ctx, chosen) {
		return TCPReport{Local: local}, nil, s.fault(local)
	}
	s.ask(ctx, chosen)
	s.ask(ctx, s.alternates(chosen))
	if len(s.seen) == 0 {
		return TCPReport{Local: local}, nil, s.fault(local)
	}
	return s.report(), s.conns, nil
}

// chooseTCP takes the first server, another port of its address, another
// address, and then what is left.
func chooseTCP(local netip.Addr, servers []netip.AddrPort) []netip.AddrPort {
	var all []netip.AddrPort
	for _, a := range servers {
		if a = plain(a); a.IsValid() && a.Port() != 0 && a.Addr().Is4() == local.Is4() && !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	if len(all) <= tcpServers {
		return all
	}
	chosen := all[:1:1]
	take := func(wanted func(a netip.AddrPort) bool) {
		i := slices.IndexFunc(all, func(a netip.AddrPort) bool { return !slices.Contains(chosen, a) && wanted(a) })
		if i >= 0 && len(chosen) < tcpServers {
			chosen = append(chosen, all[i])
		}
	}
	take(func(a netip.AddrPort) bool { return a.Addr() == all[0].Addr() })
	take(func(a netip.AddrPort) bool { return a.Addr() != all[0].Addr() })
	for range tcpServers {
		take(func(netip.AddrPort) bool { return true })
	}
	return chosen
}

// tcpSurvey is one DiscoverTCP.
type tcpSurvey struct {
	streams dgram.Streams
	local   netip.AddrPort

	mu    sync.Mutex
	conns []net.Conn
	seen  []sighting
	own   bool   // a server saw the connection's own address: no NAT
	best  Result // of the shortest round trip
	from  netip.AddrPort
	errs  []error
}

// pick asks one server after another until a port is known.
func (s *tcpSurvey) pick(ctx context.Context, servers []netip.AddrPort) bool {
	for _, server := range servers {
		s.bind(ctx, server)
		if s.local.Port() != 0 {
			return true
		}
	}
	return false
}

// ask asks the servers side by side, and waits for none much longer than the
// fastest took.
func (s *tcpSurvey) ask(ctx context.Context, servers []netip.AddrPort) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var once sync.Once
	for _, server := range servers {
		if s.knows(server) {
			continue
		}
		wg.Go(func() {
			if rtt, ok := s.bind(ctx, server); ok {
				once.Do(func() { time.AfterFunc(max(tcpGrace, 3*rtt), cancel) })
			}
		})
	}
	wg.Wait()
}

func (s *tcpSurvey) knows(server netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.seen, func(o sighting) bool { return o.server == server })
}

func (s *tcpSurvey) bind(ctx context.Context, server netip.AddrPort) (time.Duration, bool) {
	s.mu.Lock()
	local := s.local
	s.mu.Unlock()
	r, conn, err := BindTCP(ctx, s.streams, local, server)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.errs = append(s.errs, err)
		return 0, false
	}
	if at, err := netip.ParseAddrPort(conn.LocalAddr().String()); err == nil {
		s.own = s.own || plain(at) == r.Mapped
		s.local = netip.AddrPortFrom(s.local.Addr(), at.Port())
	}
	s.conns = append(s.conns, conn)
	s.seen = append(s.seen, sighting{server: server, mapped: r.Mapped})
	if s.best.RTT == 0 || r.RTT < s.best.RTT {
		s.best, s.from = r, server
	}
	return r.RTT, true
}

// alternates are sockets that the best server itself names, where the given
// ones were fewer than tell all.
func (s *tcpSurvey) alternates(asked []netip.AddrPort) (more []netip.AddrPort) {
	other := s.best.Other
	switch {
	case len(s.seen) == 0:
		return nil
	case other.IsValid() && other.Addr() != s.from.Addr() && other.Port() != s.from.Port() && mayAsk(other.Addr(), s.from.Addr()):
		more = append(more, netip.AddrPortFrom(s.from.Addr(), other.Port()), other)
	case s.best.OtherPort != 0:
		more = append(more, netip.AddrPortFrom(s.from.Addr(), s.best.OtherPort))
	}
	more = slices.DeleteFunc(more, func(a netip.AddrPort) bool { return slices.Contains(asked, a) })
	return more[:min(len(more), max(0, tcpServers-len(asked)))]
}

func (s *tcpSurvey) report() TCPReport {
	r := TCPReport{TCP: true, Local: s.local, RTT: s.best.RTT, PortPreserving: true}
	for _, o := range s.seen {
		r.Servers = append(r.Servers, o.server)
		if !slices.Contains(r.Mapped, o.mapped) {
			r.Mapped = append(r.Mapped, o.mapped)
		}
		r.PortPreserving = r.PortPreserving && o.mapped.Port() == s.local.Port()
	}
	r.Mapping, r.MappingNot = judgeMapping(s.seen)
	if s.own && len(r.Mapped) == 1 {
		r.Mapping, r.MappingNot = EndpointIndependent, []Behaviour{AddressDependent, AddressAndPortDependent}
	}
	return r
}

func (s *tcpSurvey) fault(local netip.AddrPort) error {
	return fmt.Errorf("discover how the NAT maps TCP from %v: %w", local,
		cmp.Or(errors.Join(s.errs...), errors.New("no server answered")))
}
