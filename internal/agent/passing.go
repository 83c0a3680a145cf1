package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// Bounds of what is found out about the ports that a network lets TCP pass to.
const (
	surveyWithin = 8 * time.Second
	// surveyGrace, and two round trips, is what the others have after the first
	// answer: a lost SYN is repeated after a second.
	surveyGrace = 1200 * time.Millisecond
	// maxPassing is how many ports a peer is told, and taken at its word for.
	maxPassing = 4
)

// passing is which remote ports TCP passes to from this network.
type passing struct {
	network string
	at      time.Time
	ports   []uint16 // that answered, well-known ones, best first
	silent  []uint16 // that did not
}

// limited says whether a limit was seen: some ports passed and others didn't. A
// coordinator with one port leaves that open.
func (p passing) limited() bool { return len(p.ports) > 0 && len(p.silent) > 0 }

// sole says that nothing else is known to pass, and nothing else was tried.
func (p passing) sole() bool { return len(p.silent) == 0 && len(p.ports) == 1 }

// survey finds out which of the coordinator's ports TCP reaches from here. It is
// made where UDP does not pass: such networks may let TCP pass to few ports.
func (a *Agent) survey(ctx context.Context) {
	servers, network := a.link.tcpDoors(), a.fingerprint()
	known := a.nature.passes(network)
	if a.cfg.Host.TCP == nil || len(servers) == 0 || !known.at.IsZero() && time.Since(known.at) < studyAgain {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, surveyWithin)
	defer cancel()
	began, answered := time.Now(), make([]bool, len(servers))
	var wait sync.WaitGroup
	for i, server := range servers {
		wait.Go(func() {
			_, conn, err := stun.BindTCP(ctx, a.cfg.Host.TCP, netip.AddrPortFrom(dgram.Any(server.Addr()), 0), server)
			if err == nil {
				answered[i] = true
				time.AfterFunc(surveyGrace+2*time.Since(began), cancel)
				_ = conn.Close() // it has said what it was to say
			}
		})
	}
	wait.Wait()
	p := passing{network: network, at: time.Now()}
	for i, server := range servers {
		switch {
		case !answered[i]:
			p.silent = append(p.silent, server.Port())
		case slices.Contains(wellKnown[:], server.Port()) && len(p.ports) < maxPassing:
			p.ports = append(p.ports, server.Port())
		}
	}
	a.nature.mu.Lock()
	defer a.nature.mu.Unlock()
	a.nature.passing = p
}

// surveys notes that a survey is under way until over is closed.
func (s *studied) surveys(over chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.surveyed = over
}

// awaitSurvey waits for the survey under way: without it new ports would be
// opened in vain.
func (s *studied) awaitSurvey(ctx context.Context) {
	s.mu.Lock()
	over := s.surveyed
	s.mu.Unlock()
	if over == nil {
		return
	}
	select {
	case <-over:
	case <-ctx.Done():
	}
}

// passes is what was found out of a network.
func (s *studied) passes(network string) passing {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passing.network != network {
		return passing{}
	}
	return s.passing
}

// passingHere is the remote ports that alone TCP passes to from here, best
// first; none where no such limit is known. From the third attempt on, where UDP
// is dead, a single port that passes is taken for such a limit.
func (a *Agent) passingHere(attempt uint32) []uint16 {
	p := a.nature.passes(a.fingerprint())
	if p.limited() || attempt > 2 && p.sole() && a.link.ways().udpDead {
		return p.ports
	}
	return nil
}

// tcpDoors are the ports at the coordinator's proven address that it is open on
// over TCP, those first that networks let pass rather than others.
func (l *link) tcpDoors() (list []netip.AddrPort) {
	l.mu.Lock()
	at, r, how := l.addr.Addr().Unmap(), l.reach, l.how
	l.mu.Unlock()
	if !at.IsValid() {
		return nil
	}
	for _, t := range []proto.Transport{proto.Transport_TRANSPORT_TLS, proto.Transport_TRANSPORT_TCP} {
		for _, port := range r.order(t, how) {
			if s := netip.AddrPortFrom(at, port); !slices.Contains(list, s) && len(list) < len(wellKnown) {
				list = append(list, s)
			}
		}
	}
	return list
}

// portsTold reads the ports that a peer's network lets TCP pass to. Only
// well-known ones count: on others it could make us take what programs here use.
func portsTold(told []uint32) (ports []uint16) {
	for _, n := range told {
		if port := uint16(min(n, 0xffff)); slices.Contains(wellKnown[:], port) && !slices.Contains(ports, port) && len(ports) < maxPassing {
			ports = append(ports, port)
		}
	}
	return ports
}

// outOfReach says why nothing of the peer's can be reached over TCP from behind a
// firewall that lets few ports pass: nil where one of them is open there.
func outOfReach(here []uint16, theirs []netip.AddrPort) *path.Failure {
	if len(here) == 0 || slices.ContainsFunc(theirs, func(c netip.AddrPort) bool {
		return !path.Private(c.Addr()) && slices.Contains(here, c.Port())
	}) {
		return nil
	}
	return &path.Failure{
		Reason:   "port-blocked",
		Evidence: fmt.Sprintf("TCP passes from this network to port %s alone, and the peer has no such port outside (it offers %v)", portsText(here), theirs),
		Advice:   "lead TCP port 443 of the peer's router to its agent, or have its NAT keep ports; `agent explain` on both sides says more",
	}
}

// outOfReachThere is the same of our own ports for a peer behind such a firewall.
func outOfReachThere(there []uint16, ours []netip.AddrPort) *path.Failure {
	if len(there) == 0 || slices.ContainsFunc(ours, func(c netip.AddrPort) bool { return slices.Contains(there, c.Port()) }) {
		return nil
	}
	return &path.Failure{
		Reason:   "port-translated",
		Evidence: fmt.Sprintf("TCP passes from the peer's network to port %s alone, and the NAT here shows our ports as %v", portsText(there), ours),
		Advice:   "lead TCP port 443 of the router here to this host, or have its NAT keep ports",
	}
}

func portsText(ports []uint16) (text string) {
	for i, p := range ports {
		if i > 0 {
			text += ", "
		}
		text += fmt.Sprint(p)
	}
	return text
}
