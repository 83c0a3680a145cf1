package agent

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// studyAgain is how long a study of the NAT holds: a router may be replaced, or
// its settings changed.
const studyAgain = 6 * time.Hour

// studied is what is known of the NAT before this host, per network.
type studied struct {
	own   own
	ages  ages
	stale chan struct{} // gets a value when the network has changed

	mu        sync.Mutex
	network   string
	at        time.Time
	behaviour *proto.Behaviour
	under     chan struct{} // closed when the study under way ends; nil: none is
	passing   passing
	surveyed  chan struct{} // closed when the survey under way ends; nil: none was begun
}

// study finds out how the NAT behaves, unless that is known.
func (a *Agent) study(ctx context.Context) {
	s, network := &a.nature, a.fingerprint()
	s.mu.Lock()
	if s.under != nil || s.network == network && time.Since(s.at) < studyAgain {
		s.mu.Unlock()
		return
	}
	if s.network != network {
		s.behaviour = nil
	}
	under := make(chan struct{})
	s.network, s.under = network, under
	s.mu.Unlock()
	report, err := stun.Discover(ctx, a.cfg.Host.Net, a.stunServers())
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil && report.UDP && s.network == network {
		s.at, s.behaviour = time.Now(), behaviourFrom(report)
	}
	s.under = nil
	close(under)
}

// natureWithin is what was studied of this network, nil where nothing is known;
// a study under way is waited for.
func (a *Agent) natureWithin(ctx context.Context, d time.Duration) *proto.Behaviour {
	s, network := &a.nature, a.fingerprint()
	s.mu.Lock()
	under := s.under
	s.mu.Unlock()
	if under != nil && d > 0 {
		ctx, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		select {
		case <-under:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.network != network {
		return nil
	}
	return s.behaviour
}

// studiedHere is what was studied of this network, nil where nothing is known.
func (a *Agent) studiedHere() *proto.Behaviour { return a.natureWithin(context.Background(), 0) }

// behaviourFrom is a report as peers get it.
func behaviourFrom(r stun.Report) *proto.Behaviour {
	b := &proto.Behaviour{
		Mapping: proto.Behaviour_Dependence(r.Mapping), Filtering: proto.Behaviour_Dependence(r.Filtering),
		PortPreserving: r.PortPreserving, PortDelta: int32(r.PortDelta), Hairpin: r.Hairpin,
		PortLow: uint32(r.PortBand[0]), PortHigh: uint32(r.PortBand[1]),
	}
	for _, ip := range r.Pool {
		if ip.Is4() {
			b.Addresses++
		}
	}
	return b
}

// knowing adds to what a few sightings of one socket say (may be nil) what was
// studied of the network. Sightings are newer.
func knowing(seen, known *proto.Behaviour) *proto.Behaviour {
	if known == nil {
		return seen
	}
	b := proto.Clone(known)
	if seen.GetMapping() != proto.Behaviour_DEPENDENCE_UNKNOWN {
		b.Mapping = seen.GetMapping()
	}
	return b
}

// patientStudy is how long new ports wait for a study under way where the
// mapping is seen to depend on the destination: without it they would be
// opened in vain.
const patientStudy = 1500 * time.Millisecond

// gatherUDP finds where new UDP sockets may be reached. Behind a NAT whose
// mapping depends on the destination that is not where servers see them: then
// it is told how the port that matters comes about.
func (o *openings) gatherUDP(ctx context.Context) gathered {
	a := o.as.a
	newest := o.sampleSoon(ctx)
	g := a.gather(ctx, o.udp)
	last := <-newest
	seen := g.behaviour
	patience := patientStudy
	if punch.NatureOf(seen) == punch.Easy {
		patience = 0
	}
	seen = knowing(seen, a.natureWithin(ctx, patience))
	g.behaviour = seen
	a.link.believed(&g)
	switch punch.NatureOf(punch.Suppose(g.behaviour, o.attempt)) {
	case punch.Kept:
		o.openUnasked(&g)
	case punch.Stepping:
		if last == 0 {
			last = o.sample(ctx)
		}
		if last > 0 {
			g.behaviour = proto.Clone(g.behaviour)
			g.behaviour.LastPort = uint32(last)
		}
	}
	return g
}

// sampleAfter is when the questions of a gathering are through the NAT.
const sampleAfter = 5 * time.Millisecond

// sampleSoon is sample while addresses are gathered, where the NAT is known to
// give ports that can be foreseen; else its result is 0.
func (o *openings) sampleSoon(ctx context.Context) <-chan uint16 {
	newest := make(chan uint16, 1)
	if punch.NatureOf(punch.Suppose(o.as.a.studiedHere(), o.attempt)) != punch.Stepping {
		newest <- 0
		return newest
	}
	o.as.a.tasks.start(func(context.Context) {
		_ = path.Wait(ctx, sampleAfter)
		newest <- o.sample(ctx)
	})
	return newest
}

// openUnasked opens sockets that nobody is asked about: the first destination
// gets their own port. Where the asked ones are seen from leads nowhere, and
// they would take up the peer's budget.
func (o *openings) openUnasked(g *gathered) {
	outside := g.translatedAddr(proto.Transport_TRANSPORT_UDP)
	if !outside.IsValid() {
		return
	}
	kept := slices.DeleteFunc(slices.Clone(g.candidates), candidate.translated4)
	var unasked []*endpoint
	for range punch.UnaskedSockets {
		e, err := o.as.openOne()
		if err != nil {
			break
		}
		unasked = append(unasked, e)
		kept = append(kept, candidate{proto.CandidateType_CANDIDATE_SERVER_REFLEXIVE,
			netip.AddrPortFrom(outside, e.conn.LocalAddr().Port()), proto.Transport_TRANSPORT_UDP})
	}
	o.udp = append(unasked, o.udp...)
	g.candidates = kept
}

// sample is the newest port that the NAT has given, 0 where nobody says.
func (o *openings) sample(ctx context.Context) uint16 {
	e, err := o.as.openOne()
	if err != nil {
		return 0
	}
	defer o.as.discard([]*endpoint{e})
	servers := sameFamily(o.as.a.stunServers(), true)
	seen := e.mapped(ctx, servers[:min(len(servers), 1)]) // a new coordinator may have named none meanwhile
	if len(seen) == 0 {
		return 0
	}
	return seen[0].mapped.Port()
}

// translatedAddr is the IPv4 address that servers see over a transport, invalid
// where none does.
func (g gathered) translatedAddr(over proto.Transport) netip.Addr {
	for _, c := range g.candidates {
		if c.translated4() && c.transport == over {
			return c.addr.Addr()
		}
	}
	return netip.Addr{}
}

// openOne opens one more IPv4 socket for this association.
func (as *association) openOne() (*endpoint, error) {
	e, err := as.a.listenOn(netip.IPv4Unspecified(), path.DirectUDP)
	if err == nil {
		as.own(e)
	}
	return e, err
}
