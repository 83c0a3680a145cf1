package rendezvous

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/relay"
	"rendezvous/internal/sources"
	"rendezvous/internal/stream"
	"rendezvous/proto"
)

// Bounds and times of public ports.
const (
	maxPublicPorts  = 256             // of a member
	publicGrace     = 3 * time.Minute // that a port is kept for a member whose agent has gone
	publicKeepalive = 25 * time.Second
	minPublicAlive  = 5 * time.Second
	maxPublicAlive  = 2 * time.Minute
)

// publicPorts are the ports that members have opened to clients without an
// agent.
type publicPorts struct {
	server *Server
	kicked chan struct{} // a port has something to tell its agent

	changing sync.Mutex // one after another: sockets are opened and closed under it
	closed   bool       // changing
	kept     keptPorts
	readers  sync.WaitGroup
	streams  publicStreams
	vigils   vigils

	mu      sync.Mutex
	ports   map[publicKey]*publicPort
	sources []*sources.Buckets // of each rule
}

type publicKey struct {
	number uint16
	tcp    bool
}

func (k publicKey) String() string {
	if k.tcp {
		return fmt.Sprintf("TCP %d", k.number)
	}
	return fmt.Sprintf("UDP %d", k.number)
}

// publicPort is one of them. publicPorts.mu guards its owner and told; the rest
// stays as it is.
type publicPort struct {
	publicKey
	publicOwner
	clientele
	table *publicTable  // nil for TCP
	open  []place       // where
	told  publicFigures // as the log was told last
}

// clientele is the clients of a port.
type clientele interface {
	// arrived says that the agent is there for a service, anew where it knows
	// nothing of what was before, and what it was granted.
	arrived(now time.Time, service string, anew bool, g publicGrant)
	// stands says that its control connection is gone, or that it does not
	// answer, or does so again.
	stands(publicStanding)
	// shut ends all, and the sockets.
	shut(now time.Time) error
	figures() publicFigures
}

// publicStanding is what became of a port's agent.
type publicStanding int

const (
	publicLeft publicStanding = iota
	publicSilent
	publicSpeaks
)

// publicOwner is who serves a port.
type publicOwner struct {
	service  string
	member   string
	key      Key // of the member
	instance uint64
	conn     *agentConn // nil while the agent is gone
	gone     time.Time  // since then
}

func (p *publicPorts) ownerOf(port *publicPort) publicOwner {
	p.mu.Lock()
	defer p.mu.Unlock()
	return port.publicOwner
}

func newPublicPorts(s *Server) *publicPorts {
	p := &publicPorts{server: s, kicked: make(chan struct{}, 1), ports: map[publicKey]*publicPort{}}
	p.vigils.begin()
	p.streams.conns, p.streams.wide = map[Key]*stream.Conns{}, map[*quic.Conn]struct{}{}
	for range s.config.Publish {
		p.sources = append(p.sources, sources.NewBuckets())
	}
	p.restore(time.Now())
	return p
}

func (p *publicPorts) kick() { notice(p.kicked) }

// publish opens what the agent asks for, and closes what it had before and does
// not ask for any more.
func (s *Server) publish(now time.Time, a *agentConn, me member, ask *proto.Publish) (messages, error) {
	if n := len(ask.GetPorts()); n > maxPublicPorts {
		return nil, refusef(proto.Code_CODE_BAD_REQUEST, "%d public ports are over the limit of %d of a member", n, maxPublicPorts)
	}
	here, ok := s.present.find(a.key)
	if !ok {
		return nil, refusef(proto.Code_CODE_NOT_ENROLLED, "this agent has not registered")
	}
	p := s.public
	p.changing.Lock()
	defer p.changing.Unlock()
	var out proto.Published
	wanted, refused := map[publicKey]bool{}, map[publicKey]bool{}
	for _, each := range ask.GetPorts() {
		key := publicKey{uint16(each.GetPort()), each.GetTcp()}
		pub := &proto.Publication{Service: each.GetService(), Port: each.GetPort(), Tcp: each.GetTcp()}
		out.Ports = append(out.Ports, pub)
		if wanted[key] {
			pub.Refused = fmt.Sprintf("%v is asked for twice; each service needs a port of its own", key)
			continue
		}
		port, err := p.open(now, key, here, me, each)
		if err != nil {
			pub.Refused = err.Error()
			if refused[key] = true; !a.reader.refused[key] { // the agent asks again and again
				s.log.Warn().Err(err).Str("agent", me.Name).Stringer("port", key).Msg("public port refused")
			}
			continue
		}
		wanted[key] = true
		port.describe(s, pub)
	}
	for _, port := range p.of(a.key) {
		if !wanted[port.publicKey] {
			p.close(now, port, "its agent does not want it any more")
		}
	}
	a.reader.refused = refused
	a.reader.behind = p.kick // legs follow the answer
	return messages{{Body: &proto.ToAgent_Published{Published: &out}}}, nil
}

// of are the ports of a member.
func (p *publicPorts) of(key Key) (out []*publicPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, each := range p.ports {
		if each.key == key {
			out = append(out, each)
		}
	}
	return out
}

func (p *publicPorts) all() (out []*publicPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, each := range p.ports {
		out = append(out, each)
	}
	return out
}

// open gives the member a port, the one that it has where nothing changed.
// publicPorts.changing is held.
func (p *publicPorts) open(now time.Time, key publicKey, here attendance, me member, ask *proto.PublicPort) (*publicPort, error) {
	if ask.GetPort() == 0 || ask.GetPort() > 65535 || len(ask.GetService()) > maxName {
		return nil, fmt.Errorf("port %d is not 1 to 65535, or the service's name is over %d bytes", ask.GetPort(), maxName)
	}
	rule, err := p.server.config.mayPublish(me.Name, key.number)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	have := p.ports[key]
	p.mu.Unlock()
	switch {
	case p.closed:
		return nil, errors.New("the coordinator stops")
	case have != nil && have.key != here.conn.key:
		return nil, fmt.Errorf("%v is held by %q; choose another port, or let that one go first", key, have.member)
	case have == nil:
		if err := p.keptFor(now, key, here.conn.key); err != nil {
			return nil, err
		}
	case have.differs(ask):
		p.close(now, have, "its service has changed")
		have = nil
	}
	if have == nil {
		if have, err = p.listen(key, here.conn.key, rule, ask); err != nil {
			return nil, err
		}
		have.key, have.instance = here.conn.key, here.instance
	}
	p.adopt(now, have, here, me, ask)
	return have, nil
}

// differs says whether a port must be opened anew for what is asked.
func (port *publicPort) differs(ask *proto.PublicPort) bool {
	return port.table != nil && port.table.sealed == ask.GetRaw()
}

// adopt lets the port be served by the agent that is here now.
func (p *publicPorts) adopt(now time.Time, port *publicPort, here attendance, me member, ask *proto.PublicPort) {
	p.mu.Lock()
	fresh, back := port.conn == nil && port.gone.IsZero(), port.conn != here.conn
	anew := port.instance != here.instance
	port.member, port.service, port.instance = me.Name, ask.GetService(), here.instance
	port.conn, port.gone = here.conn, time.Time{}
	p.ports[port.publicKey] = port
	p.mu.Unlock()
	p.keep(port.publicKey, &here.conn.key)
	port.arrived(now, ask.GetService(), anew, grantOf(me, ask))
	what := "public port: its agent is back"
	switch {
	case fresh:
		what = "public port opened"
	case !back:
		return // it asked again, for another port's sake
	}
	p.server.log.Info().Stringer("port", port.publicKey).Str("agent", me.Name).Str("service", ask.GetService()).Msg(what)
}

func grantOf(me member, ask *proto.PublicPort) publicGrant {
	keepalive := publicKeepalive
	if s := ask.GetKeepaliveS(); s > 0 {
		keepalive = min(max(time.Duration(s)*time.Second, minPublicAlive), maxPublicAlive)
	}
	g := publicGrant{
		terms:  &relay.Terms{Member: me.Name, Keepalive: keepalive},
		spares: defaultSpares,
		tell:   ask.GetClients(),
	}
	if n := ask.GetSpares(); n > 0 {
		g.spares = int(min(n, maxSpares))
	}
	return g
}

// close ends a port. publicPorts.changing is held.
func (p *publicPorts) close(now time.Time, port *publicPort, why string) {
	p.mu.Lock()
	if p.ports[port.publicKey] == port {
		delete(p.ports, port.publicKey)
	}
	p.mu.Unlock()
	if !p.closed { // else it is its owner's after a restart
		p.keep(port.publicKey, nil)
	}
	if err := port.shut(now); err != nil {
		p.server.log.Error().Err(err).Stringer("port", port.publicKey).Msg("close a public port")
	}
	if owner := p.ownerOf(port).key; port.tcp && !p.hasTCP(owner) {
		p.streams.drop(owner)
	}
	p.server.log.Info().Stringer("port", port.publicKey).Str("agent", p.ownerOf(port).member).Str("why", why).Msg("public port closed")
}

// release ends legs that the agent gives back.
func (s *Server) release(now time.Time, a *agentConn, r *proto.Release) (messages, error) {
	ports := s.public.of(a.key)
	for _, each := range r.GetIds() {
		if len(each) != proto.TokenSize {
			return nil, refusef(proto.Code_CODE_BAD_REQUEST, "a leg's id of %d bytes; it has %d", len(each), proto.TokenSize)
		}
		for _, port := range ports {
			if port.table != nil && port.table.release(now, proto.Token(each)) {
				break
			}
		}
	}
	return done(), nil
}

// left notes that a control connection has ended: its ports are kept for a
// while, in case the agent comes back.
func (p *publicPorts) left(now time.Time, a *agentConn) {
	for _, port := range p.of(a.key) {
		p.mu.Lock()
		mine := port.conn == a
		if mine {
			port.conn, port.gone = nil, now
		}
		p.mu.Unlock()
		if mine {
			port.stands(publicLeft)
		}
	}
}

// expel closes the ports of a member that was removed.
func (p *publicPorts) expel(now time.Time, key Key) {
	p.changing.Lock()
	defer p.changing.Unlock()
	for _, port := range p.of(key) {
		p.close(now, port, "its agent was removed from the network")
	}
	p.streams.drop(key)
}

// stop closes all ports for good.
func (p *publicPorts) stop() {
	p.changing.Lock()
	p.closed = true
	for _, port := range p.all() {
		p.close(time.Now(), port, "the coordinator stops")
	}
	p.changing.Unlock()
	p.vigils.end()
	p.streams.stop()
	p.readers.Wait()
}

// run tells agents what their ports need, until ctx ends.
func (p *publicPorts) run(ctx context.Context) {
	const again = 5 * time.Millisecond // for agents whose outbox is full
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	retry := time.NewTimer(again)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			p.expire(now)
		case <-p.kicked:
		case <-retry.C:
		}
		if !p.tellAgents(time.Now()) {
			retry.Reset(again)
		}
	}
}
