package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// publisher keeps the ports that the coordinator is asked to open to clients
// without an agent. Its conversation is run's; the legs that come of it are each
// others' strangers, see publicLeg.
type publisher struct {
	a     *Agent
	wake  chan struct{}
	drops publicDrops
	tcp   *publicStreams
	crowd *dgram.Crowd // the sockets of legs, and of their clients before services

	mu     sync.Mutex // for what follows, and what ports and legs say it guards
	ports  map[publicKey]*publicPort
	legs   map[proto.Token]*publicLeg
	asked  bool      // something was, and may have to be taken back
	prefer path.Kind // over which the last leg was bound
	closed bool
}

// publicKey is what two services can't both have.
type publicKey struct {
	port uint16
	tcp  bool
}

func (k publicKey) String() string {
	if k.tcp {
		return fmt.Sprintf("tcp/%d", k.port)
	}
	return fmt.Sprintf("udp/%d", k.port)
}

// publicPort is one port, of one service as it was exposed: another URL makes
// another port.
type publicPort struct {
	publicKey
	service string
	target  forward.Target
	where   *whereabouts

	// guarded by publisher.mu
	granted     *proto.Publication // the coordinator's answer; nil: it is awaited
	legs        map[proto.Token]*publicLeg
	connections int    // of a TCP port
	total       uint64 // clients since it was opened
	told        tally  // what the last line of the log said
}

func newPublisher(a *Agent) *publisher {
	p := &publisher{
		a: a, wake: make(chan struct{}, 1), crowd: dgram.NewCrowd(a.cfg.Host.Net),
		ports: make(map[publicKey]*publicPort), legs: make(map[proto.Token]*publicLeg),
	}
	p.tcp = newPublicStreams(p)
	return p
}

const (
	// askAgain follows a port that was refused, doubling up to askMost: it may
	// have been another member's.
	askAgain = 30 * time.Second
	askMost  = 10 * time.Minute
	// maxGrant bounds what one message of the coordinator's can make us open.
	maxGrant = 1024
)

// ask has the coordinator told what is wanted now: services came or went, or
// there is another connection.
func (p *publisher) ask() { notice(p.wake) }

// run asks whenever that is due, until ctx ends.
func (p *publisher) run(ctx context.Context) {
	retry := time.NewTimer(time.Hour)
	retry.Stop()
	defer retry.Stop()
	wait := askAgain
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			wait = askAgain
		case <-retry.C:
			wait = min(2*wait, askMost)
		}
		if !p.publish(ctx) {
			retry.Reset(wait)
		}
		p.tcp.look()
	}
}

// publish asks for the ports of the services as they are now, and takes in the
// answer; false where something was refused, so that it is worth asking again.
func (p *publisher) publish(ctx context.Context) bool {
	m, ports := p.wanted()
	if m == nil {
		return true
	}
	answer, err := p.a.link.call(ctx, &proto.ToCoordinator{Body: &proto.ToCoordinator_Publish{Publish: m}})
	switch {
	case errors.Is(err, errOffline) || ctx.Err() != nil:
		return true // the next connection asks
	case err != nil:
		p.answered(ports, refuseAll(m, err.Error()))
		return false
	}
	told := answer.GetPublished().GetPorts()
	if len(told) != len(ports) {
		told = refuseAll(m, "the coordinator did not say; is it of an earlier version?")
	}
	return p.answered(ports, told)
}

func refuseAll(m *proto.Publish, why string) []*proto.Publication {
	out := make([]*proto.Publication, 0, len(m.GetPorts()))
	for range m.GetPorts() {
		out = append(out, &proto.Publication{Refused: why})
	}
	return out
}

// wanted makes the ports agree with the services, and says what to ask for; nil
// where nothing is wanted and nothing was.
func (p *publisher) wanted() (*proto.Publish, []*publicPort) {
	gone := p.agree()
	p.giveBack(gone)
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.ports) == 0 && !p.asked {
		return nil, nil
	}
	p.asked = len(p.ports) > 0
	m := &proto.Publish{}
	ports := slices.SortedFunc(maps.Values(p.ports), func(a, b *publicPort) int {
		return cmp.Or(int(a.port)-int(b.port), strings.Compare(a.service, b.service))
	})
	for _, port := range ports {
		ask := &proto.PublicPort{Service: port.service, Port: uint32(port.port), Tcp: port.tcp}
		if !port.tcp {
			ask.Raw, ask.Clients = port.target.Raw, port.target.Alias
			ask.Spares, ask.KeepaliveS = uint32(p.a.cfg.Public.Spares), uint32(p.a.cfg.Public.Keepalive/time.Second)
		}
		m.Ports = append(m.Ports, ask)
	}
	return m, ports
}

// agree drops the ports of services that are no more as they were, adds those
// that are new, and gives the legs that have lost their port.
func (p *publisher) agree() (gone []*publicLeg) {
	services := p.a.services.List()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := make(map[publicKey]forward.Service)
	for _, s := range services {
		if s.Public != 0 && !p.closed {
			now[publicKey{port: s.Public, tcp: s.Scheme == "tcp"}] = s
		}
	}
	for key, port := range p.ports {
		if s, ok := now[key]; !ok || s.Name != port.service || s.Target != port.target {
			gone = append(gone, slices.Collect(maps.Values(port.legs))...)
			delete(p.ports, key)
		}
	}
	for key, s := range now {
		if p.ports[key] == nil {
			p.ports[key] = &publicPort{publicKey: key, service: s.Name, target: s.Target, legs: make(map[proto.Token]*publicLeg),
				where: newWhereabouts(s.Target, p.a.cfg.Host.Resolve)}
		}
	}
	return gone
}

// answered takes in what the coordinator said of each port.
func (p *publisher) answered(ports []*publicPort, told []*proto.Publication) (all bool) {
	all = true
	for i, port := range ports {
		p.mu.Lock()
		before := port.granted
		port.granted = told[i]
		p.mu.Unlock()
		why := told[i].GetRefused()
		all = all && why == ""
		if before != nil && before.GetRefused() == why {
			continue // it was told
		}
		if why != "" {
			p.a.cfg.Log.Warn().Str("service", port.service).Stringer("port", port.publicKey).Str("why", ops.Plain(why)).
				Msg("the coordinator does not open the public port; trying again")
			continue
		}
		log := p.a.cfg.Log.Info().Str("service", port.service).Stringer("port", port.publicKey).Strs("at", addrsOf(told[i]))
		if !port.tcp {
			log = log.Uint32("spares", told[i].GetSpares()).Uint32("keepalive_s", told[i].GetKeepaliveS())
		}
		log.Msg("the public port is open to clients without an agent")
	}
	return all
}

// granted takes allocations for clients that may come.
func (p *publisher) granted(m *proto.PublicLegs) {
	defer p.a.tasks.wake()
	for _, alloc := range m.GetAllocations()[:min(len(m.GetAllocations()), maxGrant)] {
		l, evicted := p.admit(publicKey{port: uint16(m.GetPort())}, m.GetService(), alloc)
		if evicted != nil {
			p.drops.evicted.Add(1)
			p.giveBack([]*publicLeg{evicted})
		}
		if l != nil {
			p.a.tasks.start(l.raise)
		}
	}
}

// admit makes a leg's place in the table, and room for it.
func (p *publisher) admit(key publicKey, service string, alloc *proto.Allocation) (l, evicted *publicLeg) {
	if len(alloc.GetId()) != proto.TokenSize || len(alloc.GetKey()) != seal.KeySize {
		return nil, nil
	}
	id := proto.Token(alloc.GetId())
	p.mu.Lock()
	defer p.mu.Unlock()
	port := p.ports[key]
	if p.closed || port == nil || port.service != service || p.legs[id] != nil {
		return nil, nil // it went while this was on its way
	}
	if most := p.a.cfg.Public.MaxClients + p.a.cfg.Public.Spares*len(p.ports); len(p.legs) >= most {
		evicted = p.leastUsed(time.Now())
		p.forget(evicted)
	}
	l = newPublicLeg(p, port, id, alloc)
	p.legs[id], port.legs[id] = l, l
	return l, evicted
}

// leastUsed is the leg of the client that was silent longest: one that the service
// has left without answer, else one that it has answered or may yet, else a leg
// without a client. So a flood of strangers displaces itself. p.mu is held.
func (p *publisher) leastUsed(now time.Time) (least *publicLeg) {
	for _, l := range p.legs {
		if least == nil || cmp.Or(l.worth(now)-least.worth(now), cmp.Compare(l.used.Load(), least.used.Load())) < 0 {
			least = l
		}
	}
	return least
}

// answerSoon is how long a service near us may take for its first answer. A new
// client brings a new spare along, which must not take that very client's place;
// a crowd that is to displace whom the service has answered must come faster.
const answerSoon = 100 * time.Millisecond

// worth is in which order legs make room for others, the lowest first.
func (l *publicLeg) worth(now time.Time) int {
	switch {
	case !l.begun():
		return 2
	case l.served.Load(), now.Sub(time.Unix(0, l.answered.Load())) < answerSoon:
		return 1
	}
	return 0
}

// forget takes a leg out of the table, and says whether it was there. p.mu is
// held.
func (p *publisher) forget(l *publicLeg) bool {
	if p.legs[l.id] != l {
		return false
	}
	delete(p.legs, l.id)
	delete(l.port.legs, l.id)
	return true
}

// giveBack closes legs and tells the coordinator that it may have them.
func (p *publisher) giveBack(legs []*publicLeg) {
	if len(legs) == 0 {
		return
	}
	m := &proto.Release{}
	p.mu.Lock()
	for _, l := range legs {
		p.forget(l)
		m.Ids = append(m.Ids, l.id[:])
	}
	p.mu.Unlock()
	for _, l := range legs {
		l.close()
	}
	for ids := range slices.Chunk(m.Ids, maxGrant) {
		// Without a connection they have lapsed, or will.
		_ = p.a.link.send(&proto.ToCoordinator{Body: &proto.ToCoordinator_Release{Release: &proto.Release{Ids: ids}}})
	}
}

// clientIs notes whose a leg has become.
func (p *publisher) clientIs(m *proto.PublicClient) {
	at, ok := (&proto.Endpoint{Addr: m.GetAddr(), Port: m.GetPort()}).AddrPort()
	if !ok || len(m.GetId()) != proto.TokenSize {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if l := p.legs[proto.Token(m.GetId())]; l != nil && !l.client.IsValid() {
		l.client = netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
		close(l.known)
	}
}

// tend ends the legs whose clients were silent for too long, looks for services
// that have moved, and logs what has changed. It says when to do so again.
func (p *publisher) tend(now time.Time) (next time.Duration) {
	var idle, unanswered []*publicLeg
	next = tendSeldom
	p.mu.Lock()
	for _, l := range p.legs {
		silent := now.Sub(l.lastUse())
		if l.begun() {
			next = min(next, p.a.cfg.Public.Idle-silent)
			if silent < lately || l.used.Load() > l.answered.Load() {
				next = flowsEvery
			}
		}
		switch {
		case !l.begun():
		case silent >= p.a.cfg.Public.Idle:
			idle = append(idle, l)
		case l.unanswered(now):
			unanswered = append(unanswered, l)
		}
	}
	p.mu.Unlock()
	p.giveBack(idle)
	for _, l := range unanswered {
		l.lookAgain()
	}
	p.tell()
	return next
}

// refresh binds all legs again soon, because this host's network has changed.
func (p *publisher) refresh() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, l := range p.legs {
		l.refresh(len(p.legs))
	}
}

// close ends all legs, for good.
func (p *publisher) close() {
	p.mu.Lock()
	p.closed = true
	all := slices.Collect(maps.Values(p.legs))
	clear(p.legs)
	p.mu.Unlock()
	for _, l := range all {
		l.close()
	}
	p.crowd.Close()
}
