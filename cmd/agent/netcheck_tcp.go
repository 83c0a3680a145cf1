package main

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
	"rendezvous/internal/faketcp"
	"rendezvous/internal/path"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// tcpWithin bounds each question about TCP: a SYN is repeated after 1 s and 3 s.
const tcpWithin = 4 * time.Second

// tcpSurvey finds out what the network does to TCP, and to what looks like it.
type tcpSurvey struct {
	streams dgram.Streams
	fake    dgram.FakeTCP
	noFake  *path.Failure
	servers []netip.AddrPort // asked over TCP
	doors   []netip.AddrPort // those of them where fake TCP is said to be served
	told    bool             // doors is what the coordinator said, no guess
	tls     func(ctx context.Context) (via string, err error)

	mu     sync.Mutex
	report tcpReport
}

// tcpReport is what a tcpSurvey found.
type tcpReport struct {
	ports, fakePorts []int
	mapping          stun.Behaviour
	mappingNot       []stun.Behaviour
	tls              bool
	via              string
	faked            string
	boxes            []string
	v4, v6           bool // something answered over that family
}

// The words of netcheck's "faketcp".
const (
	fakeOK      = "ok"
	fakeBlocked = "blocked"
	fakeChecked = "seq-checked"
)

// newTCPSurvey asks the same servers as over UDP, and where a coordinator was
// joined, its doors.
func newTCPSurvey(servers []netip.AddrPort, state *agent.State) *tcpSurvey {
	s := &tcpSurvey{streams: dgram.SystemStreams(), servers: slices.Clone(servers)}
	s.fake, s.noFake = fakeTCP(faketcp.DefaultOptions())
	if state == nil {
		s.doors = s.servers
		return s
	}
	c := state.Coordinator()
	hosts := make(map[netip.Addr]bool)
	for _, at := range servers {
		if hosts[at.Addr()] {
			continue
		}
		hosts[at.Addr()] = true
		for _, d := range c.Doors {
			door := netip.AddrPortFrom(at.Addr(), d.Port)
			switch {
			case d.Transport == proto.Transport_TRANSPORT_FAKE_TCP:
				s.doors = append(s.doors, door)
			case d.Transport != proto.Transport_TRANSPORT_UDP && !slices.Contains(s.servers, door):
				s.servers = append(s.servers, door)
			}
		}
	}
	if s.told = len(c.Doors) > 0; !s.told {
		s.doors = s.servers
	}
	s.tls = func(ctx context.Context) (string, error) { return askTLS(ctx, state) }
	return s
}

// askTLS makes a control connection over TLS to the coordinator's own port, or
// 443, and says through which proxy.
func askTLS(ctx context.Context, state *agent.State) (via string, err error) {
	ctx, cancel := context.WithTimeout(ctx, tcpWithin)
	defer cancel()
	cert, err := state.Identity().Certificate()
	if err != nil {
		return "", err
	}
	c := state.Coordinator()
	client, err := rendezvous.DialTLS(ctx, c.Addr, c.Pin, cert)
	if host, port, _ := net.SplitHostPort(c.Addr); err != nil && port != "443" && ctx.Err() == nil {
		client, err = rendezvous.DialTLS(ctx, net.JoinHostPort(host, "443"), c.Pin, cert)
	}
	if err != nil {
		return "", err
	}
	return client.Via(), client.Close()
}

// run asks everything side by side, within some seconds.
func (s *tcpSurvey) run(ctx context.Context) tcpReport {
	s.report = tcpReport{ports: []int{}, fakePorts: []int{}, boxes: []string{}, faked: stun.Unknown.String()}
	var wait sync.WaitGroup
	for _, at := range s.servers {
		wait.Go(func() { s.askTCP(ctx, at) })
	}
	wait.Go(func() { s.askMapping(ctx) })
	if s.tls != nil {
		wait.Go(func() { s.askTLS(ctx) })
	}
	if s.noFake != nil {
		s.report.faked = s.noFake.Reason
	} else {
		for _, v4 := range []bool{true, false} {
			wait.Go(func() { s.askFake(ctx, v4) })
		}
	}
	wait.Wait()
	slices.Sort(s.report.ports)
	slices.Sort(s.report.fakePorts)
	if s.report.faked == stun.Unknown.String() && s.told && len(s.doors) > 0 {
		s.report.faked = fakeBlocked
	}
	return s.report
}

func (s *tcpSurvey) askTCP(ctx context.Context, at netip.AddrPort) {
	ctx, cancel := context.WithTimeout(ctx, tcpWithin)
	defer cancel()
	_, conn, err := stun.BindTCP(ctx, s.streams, anyOf(at), at)
	if err != nil {
		return
	}
	_ = conn.Close() // it has told all
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.ports = withPort(s.report.ports, at.Port())
	s.report.reached(at)
}

// askMapping is about IPv4 alone, where there are servers of that family: few
// NATs are met on IPv6.
func (s *tcpSurvey) askMapping(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, tcpWithin)
	defer cancel()
	local := netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	if !slices.ContainsFunc(s.servers, func(at netip.AddrPort) bool { return at.Addr().Is4() }) {
		local = netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
	}
	r, conns, err := stun.DiscoverTCP(ctx, s.streams, local, s.servers)
	for _, c := range conns {
		_ = c.Close() // it has told all
	}
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.mapping, s.report.mappingNot = r.Mapping, r.MappingNot
}

func (s *tcpSurvey) askTLS(ctx context.Context) {
	via, err := s.tls(ctx)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.report.tls, s.report.via = true, via
}

// askFake opens fake TCP to the doors of one family and looks what the boxes on
// the way to the first do.
func (s *tcpSurvey) askFake(ctx context.Context, v4 bool) {
	var doors []netip.AddrPort
	for _, at := range s.doors {
		if at.Addr().Is4() == v4 {
			doors = append(doors, at)
		}
	}
	if len(doors) == 0 {
		return
	}
	conn, err := s.fake.ListenFakeTCP(anyOf(doors[0]), nil)
	if err != nil {
		return
	}
	asker := stun.NewClient(conn.Write)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = path.Read(conn, func(b dgram.Burst) {
			for d := range b.All() {
				asker.Receive(b.Addr, d)
			}
		})
	}()
	defer func() { _ = conn.Close(); <-ended }()
	var wait sync.WaitGroup
	var once sync.Once
	for _, at := range doors {
		wait.Go(func() {
			opened, answered := s.askDoor(ctx, conn, asker, at)
			if answered {
				once.Do(func() { s.look(ctx, conn, at) })
			}
			if opened {
				s.foundFake(at, answered)
			}
		})
	}
	wait.Wait()
}

// askDoor says whether the handshake was answered, and whether a datagram was.
func (s *tcpSurvey) askDoor(ctx context.Context, conn dgram.Opener, asker *stun.Client, at netip.AddrPort) (opened, answered bool) {
	ctx, cancel := context.WithTimeout(ctx, tcpWithin)
	defer cancel()
	if conn.Open(ctx, at) != nil {
		return false, false
	}
	_, err := asker.Bind(ctx, at)
	return true, err == nil
}

// foundFake notes a door that opened. What opens but lets nothing through
// checks sequence numbers, or is no coordinator's.
func (s *tcpSurvey) foundFake(at netip.AddrPort, answered bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case answered:
		s.report.fakePorts = withPort(s.report.fakePorts, at.Port())
		s.report.reached(at)
		if s.report.faked != fakeChecked {
			s.report.faked = fakeOK
		}
	case s.told && s.report.faked == stun.Unknown.String():
		s.report.faked = fakeChecked
	}
}

// look finds the boxes on the way to a door.
func (s *tcpSurvey) look(ctx context.Context, conn dgram.Opener, at netip.AddrPort) {
	checker, ok := conn.(interface {
		Check(ctx context.Context, to netip.AddrPort) (faketcp.Verdict, error)
	})
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 2*tcpWithin)
	defer cancel()
	v, err := checker.Check(ctx, at)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, box := range boxesOf(v) {
		if !slices.Contains(s.report.boxes, box) {
			s.report.boxes = append(s.report.boxes, box)
		}
	}
	if !v.Usable() {
		s.report.faked = fakeChecked
	}
}

// boxesOf are the words for what boxes on the way do.
func boxesOf(v faketcp.Verdict) (words []string) {
	for _, w := range []struct {
		is   bool
		word string
	}{
		{v.SplitTCP, "split-tcp"}, {v.SeqRewritten, "sequence-rewriting"}, {v.Coalesced, "coalescing"},
		{v.WindowClamped, "window-clamping"}, {v.OptionsStripped, "option-stripping"}, {v.MSSClamped, "mss-clamping"},
	} {
		if w.is {
			words = append(words, w.word)
		}
	}
	return words
}

func withPort(ports []int, port uint16) []int {
	if slices.Contains(ports, int(port)) {
		return ports
	}
	return append(ports, int(port))
}

func anyOf(at netip.AddrPort) netip.AddrPort {
	if at.Addr().Unmap().Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
}

// reached notes the family of a server that answered.
func (r *tcpReport) reached(at netip.AddrPort) {
	if at.Addr().Unmap().Is4() {
		r.v4 = true
	} else {
		r.v6 = true
	}
}

// addTo puts the report into what netcheck prints.
func (r tcpReport) addTo(n *agent.Netcheck) {
	n.IPv4, n.IPv6 = n.IPv4 || r.v4, n.IPv6 || r.v6
	n.TCPPorts, n.FakeTCPPorts, n.Middlebox = r.ports, r.fakePorts, r.boxes
	n.TCPMapping, n.FakeTCP, n.TLS, n.Via = r.mapping.String(), r.faked, r.tls, r.via
	for _, b := range r.mappingNot {
		n.TCPMappingNot = append(n.TCPMappingNot, b.String())
	}
}

// portWords is a list of ports for people.
func portWords(ports []int) []string {
	words := make([]string, len(ports))
	for i, p := range ports {
		words[i] = strconv.Itoa(p)
	}
	return words
}

// plainTCP says whether TCP passes to a server, with or without a proxy.
func plainTCP(n agent.Netcheck) bool { return len(n.TCPPorts) > 0 || n.TLS }
