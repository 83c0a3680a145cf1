package stun

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// How long Discover takes at most, and its parts. A round trip of over a
// second would be too long to be of use anyway.
const (
	maxDiscovery = 3 * time.Second
	maxFirst     = 1500 * time.Millisecond // for any server to answer at all
	// After the first answer, wait this long for a server that can tell more.
	grace = 300 * time.Millisecond
	// How long an answer that doesn't come is waited for: time for four
	// requests.
	minSilence = 700 * time.Millisecond
	maxSilence = 1200 * time.Millisecond
)

// The new sockets whose outside ports are looked at. They send this far apart,
// so that the NAT sees them in order, but few others in between.
const (
	samples     = 6
	sampleSpace = time.Millisecond
)

// Discover finds out how the NAT before this host behaves (RFC 5780), by asking
// STUN servers from sockets of its own, for no longer than about three seconds.
// A server with two addresses can tell everything; one address on two ports
// tells part; what isn't known is said so, and is no error. Give all addresses
// and ports of a coordinator, best first; foreign servers may be among them.
//
// It is an error to give no server, to be unable to open a socket, or to cancel
// ctx; the report then holds what was found so far.
func Discover(ctx context.Context, network dgram.Network, servers []netip.AddrPort) (Report, error) {
	if len(servers) == 0 {
		return Report{}, errors.New("discover how the NAT behaves: no STUN server given; name one that answers on UDP")
	}
	own, err := network.Addrs()
	if err != nil {
		return Report{}, fmt.Errorf("discover how the NAT behaves: %w", err)
	}
	bounded, cancel := context.WithTimeout(ctx, maxDiscovery)
	defer cancel()

	v4 := &survey{network: network, own: own, local: netip.IPv4Unspecified()}
	v6 := &survey{network: network, own: own, local: netip.IPv6Unspecified()}
	for _, a := range servers {
		s := v6
		if a = plain(a); a.Addr().Is4() {
			s = v4
		}
		if a.IsValid() && a.Port() != 0 && !slices.Contains(s.servers, a) {
			s.servers = append(s.servers, a)
		}
	}
	var wg sync.WaitGroup
	families, opened := []*survey{v4, v6}, false
	for _, s := range families {
		wg.Go(func() { s.run(bounded) })
	}
	wg.Wait()
	for _, s := range families {
		opened = opened || s.main != nil
	}

	report := merge(v4.report, v6.report)
	if !opened {
		return report, fmt.Errorf("discover how the NAT behaves: ask %v: %w", servers,
			cmp.Or(errors.Join(v4.err, v6.err), errors.New("no server has an address and a port")))
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return report, fmt.Errorf("discover how the NAT behaves: %w", context.Cause(ctx))
	}
	return report, nil
}

// survey is the discovery of one address family.
type survey struct {
	network dgram.Network
	own     []dgram.HostAddr
	local   netip.Addr // the family's unspecified address
	servers []netip.AddrPort

	main   *socket        // asks every server, so that their answers can be compared
	server netip.AddrPort // the one that can tell most
	best   Result         // its answer

	mu   sync.Mutex
	seen []sighting // of main

	report Report
	err    error // no socket could be opened
}

func (s *survey) run(ctx context.Context) {
	if len(s.servers) == 0 {
		return
	}
	if s.main, s.err = open(s.network, s.local); s.err != nil {
		return
	}
	defer s.main.close()
	ctx, cancel := context.WithCancel(ctx)
	var late sync.WaitGroup // servers that haven't answered yet
	defer late.Wait()
	defer cancel()
	if !s.first(ctx, &late) {
		return
	}
	s.main.client.Expect(s.best.RTT)
	choices, hairpin, address, port := s.details(ctx)
	cancel()
	late.Wait()
	s.conclude(choices, hairpin, address, port)
}

// first asks every server from the main socket, and returns when it knows which
// of them can tell most; false where none answers.
func (s *survey) first(ctx context.Context, late *sync.WaitGroup) bool {
	type reply struct {
		server netip.AddrPort
		result Result
		err    error
	}
	replies := make(chan reply, len(s.servers))
	for _, server := range s.servers {
		late.Go(func() {
			r, err := s.bind(ctx, server)
			replies <- reply{server, r, err}
		})
	}
	timeout := time.NewTimer(maxFirst)
	defer timeout.Stop()
	for range s.servers {
		select {
		case r := <-replies:
			if r.err != nil || s.worth(r.server, r.result) <= s.worth(s.server, s.best) {
				continue
			}
			if !s.server.IsValid() {
				timeout.Reset(grace)
			}
			s.server, s.best = r.server, r.result
		case <-timeout.C:
			return s.server.IsValid()
		}
		if s.worth(s.server, s.best) == mostWorth {
			return true
		}
	}
	return s.server.IsValid()
}

// worth orders servers by what they can tell. One on this side of the NAT can't
// tell how the NAT behaves.
func (s *survey) worth(server netip.AddrPort, r Result) int {
	if !server.IsValid() {
		return 0
	}
	worth := 1
	if !s.isOwn(r.Mapped, s.main) {
		worth = 4
	}
	switch {
	case r.Other.IsValid():
		worth += 2
	case r.OtherPort != 0:
		worth++
	}
	return worth
}

// mostWorth is the highest that worth gives.
const mostWorth = 6

// bind asks a server from the main socket and remembers how it was seen.
func (s *survey) bind(ctx context.Context, server netip.AddrPort) (Result, error) {
	r, err := s.main.client.Bind(ctx, server)
	if err != nil {
		return r, err
	}
	// RFC 5780 forbids an other address that isn't another; some send it.
	if r.Other.Addr() == server.Addr() || r.Other.Port() == server.Port() || !mayAsk(r.Other.Addr(), server.Addr()) {
		r.Other = netip.AddrPort{}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, sighting{server: server, mapped: r.Mapped})
	return r, nil
}

// silence is how long an answer is waited for.
func (s *survey) silence() time.Duration {
	return min(max(4*s.best.RTT+minSilence-100*time.Millisecond, minSilence), maxSilence)
}

// details runs the tests that go to the best server, side by side.
func (s *survey) details(ctx context.Context) (choices []choice, hairpin bool, address, port passage) {
	fresh := s.freshSockets()
	defer func() {
		for _, f := range fresh {
			f.close()
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, s.silence()+s.silence()/2)
	defer cancel()

	// The samples go first: the other tests' mappings would stand between
	// them.
	seen := make([]sample, len(fresh))
	var wg sync.WaitGroup
	for i, f := range fresh {
		seen[i] = sample{socket: f, done: make(chan struct{})}
		wg.Go(func() { seen[i].take(ctx, s.server) })
		<-f.wrote // goroutines don't start in order
		pause(ctx, sampleSpace)
	}
	alternates := s.alternates()
	for _, a := range alternates {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, s.silence())
			defer cancel()
			_, _ = s.bind(ctx, a) // what doesn't answer isn't compared
		})
	}
	var address2, port2 passage
	if len(seen) == samples {
		wg.Go(func() { hairpin = s.hairpin(ctx, &seen[0], &seen[1]) })
		// On two sockets, so that eight answers must be lost before loss is
		// taken for filtering.
		wg.Go(func() { address, port = s.filtering(ctx, &seen[2]) })
		wg.Go(func() { address2, port2 = s.filtering(ctx, &seen[3]) })
	}
	wg.Wait()
	address, port = max(address, address2), max(port, port2)
	for i := range seen {
		if seen[i].ok {
			s.report.pool(seen[i].mapped.Addr())
			choices = append(choices, choice{
				local: fresh[i].conn.LocalAddr().Port(), outside: seen[i].mapped.Port(),
			})
		}
	}
	return choices, hairpin, address, port
}

// conclude writes the report.
func (s *survey) conclude(choices []choice, hairpin bool, address, port passage) {
	r := &s.report
	r.UDP, r.IPv4, r.IPv6 = true, s.local.Is4(), s.local.Is6()
	seen := s.seen
	// A server on this side of the NAT says nothing about it.
	if through := slices.DeleteFunc(slices.Clone(seen), s.untranslated); len(through) > 0 {
		seen = through
	}
	for _, o := range s.seen {
		r.Servers = append(r.Servers, o.server)
	}
	for _, o := range seen {
		if !slices.Contains(r.Mapped, o.mapped) {
			r.Mapped = append(r.Mapped, o.mapped)
			r.pool(o.mapped.Addr())
		}
	}
	r.Mapping, r.MappingNot = judgeMapping(seen)
	if s.untranslated(seen[0]) {
		r.Mapping, r.MappingNot = EndpointIndependent, []Behaviour{AddressDependent, AddressAndPortDependent}
	}
	// Silence is filtering only if the server's other sockets are alive.
	if address == stopped && !s.saw(s.best.Other) {
		address = untold
	}
	if port == stopped && !s.saw(s.otherPort()) {
		port = untold
	}
	r.Filtering, r.FilteringNot = judgeFiltering(address, port)
	r.Ports = judgePorts(choices)
	r.Hairpin = hairpin
	r.CGNAT = behindCarrier(s.own, seen[0].mapped.Addr())
}

// untranslated says whether a server saw the main socket's own address.
func (s *survey) untranslated(o sighting) bool {
	return s.isOwn(o.mapped, s.main)
}

func (s *survey) isOwn(mapped netip.AddrPort, f *socket) bool {
	return mapped.Port() == f.conn.LocalAddr().Port() && slices.ContainsFunc(s.own, func(h dgram.HostAddr) bool {
		return h.Addr.Addr().Unmap() == mapped.Addr()
	})
}

// saw says whether this server answered the main socket.
func (s *survey) saw(server netip.AddrPort) bool {
	return slices.ContainsFunc(s.seen, func(o sighting) bool { return o.server == server })
}

// otherPort is the best server's other port on the same address; the zero
// AddrPort where it names none.
func (s *survey) otherPort() netip.AddrPort {
	switch {
	case s.best.Other.IsValid():
		return netip.AddrPortFrom(s.server.Addr(), s.best.Other.Port())
	case s.best.OtherPort != 0:
		return netip.AddrPortFrom(s.server.Addr(), s.best.OtherPort)
	}
	return netip.AddrPort{}
}

// alternates are the best server's other sockets that weren't asked yet.
func (s *survey) alternates() []netip.AddrPort {
	all := []netip.AddrPort{s.otherPort()}
	if s.best.Other.IsValid() {
		all = append(all, s.best.Other, netip.AddrPortFrom(s.best.Other.Addr(), s.server.Port()))
	}
	return slices.DeleteFunc(all, func(a netip.AddrPort) bool {
		return !a.IsValid() || slices.Contains(s.servers, a)
	})
}

// freshSockets are as many as could be opened of those to be sampled.
func (s *survey) freshSockets() []*socket {
	var fresh []*socket
	for range samples {
		f, err := open(s.network, s.local)
		if err != nil {
			break // what the others tell is better than nothing
		}
		f.client.Expect(s.best.RTT)
		fresh = append(fresh, f)
	}
	return fresh
}

// pause waits; false where ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
