package rendezvous

import (
	"time"

	"rendezvous/internal/relay"
	"rendezvous/proto"
)

// tellAgents sends each agent the legs that its ports need and the clients that
// it wants to know of. It says whether all of it left: an agent that reads
// slowly is told later.
func (p *publicPorts) tellAgents(now time.Time) bool {
	all := true
	for _, port := range p.all() {
		if port.table == nil {
			continue
		}
		owner := p.ownerOf(port)
		if owner.conn != nil {
			all = p.tellLegs(now, port, owner) && all
			all = tellClients(port, owner.conn) && all
		}
	}
	return all
}

func (p *publicPorts) tellLegs(now time.Time, port *publicPort, owner publicOwner) bool {
	for {
		if !owner.conn.hasRoom() {
			return false
		}
		allocs := port.table.topUp(now)
		if len(allocs) == 0 {
			return true
		}
		m := &proto.PublicLegs{Service: owner.service, Port: uint32(port.number)}
		relays := p.server.endpoints(owner.conn.spot, owner.conn.remote.Addr())
		relays = relays[:min(len(relays), relaysTold)]
		for _, a := range allocs {
			m.Allocations = append(m.Allocations, legMessage(a, relays, port.table.keepalive()))
		}
		owner.conn.send(&proto.ToAgent{Body: &proto.ToAgent_PublicLegs{PublicLegs: m}})
	}
}

// relaysTold is how many of the relay's addresses go with each leg: the likely
// ones, since a rush of clients brings hundreds of legs, and each round trip
// that they take keeps clients waiting.
const relaysTold = 2

func legMessage(a relay.Allocation, relays []*proto.Endpoint, keepalive time.Duration) *proto.Allocation {
	return &proto.Allocation{Id: a.ID[:], Key: a.Keys[0][:], Relay: relays, KeepaliveS: uint32(keepalive / time.Second)}
}

func tellClients(port *publicPort, conn *agentConn) bool {
	for {
		if !conn.hasRoom() {
			return false
		}
		news := port.table.takeNews(1)
		if len(news) == 0 {
			return true
		}
		for _, each := range news {
			conn.send(&proto.ToAgent{Body: &proto.ToAgent_PublicClient{PublicClient: each}})
		}
	}
}

// expire lets nobody wait for too long, frees ports whose agents have been gone
// for too long, and tells the log how many clients come and go.
func (p *publicPorts) expire(now time.Time) {
	p.forgetKept(now)
	for _, port := range p.all() {
		if port.table != nil {
			port.table.expire(now)
			if port.table.waits(now) {
				port.table.doubt()
			}
		}
		p.logClients(port)
		p.mu.Lock()
		over := port.conn == nil && now.Sub(port.gone) >= publicGrace
		p.mu.Unlock()
		if over {
			p.free(now, port)
		}
	}
}

func (p *publicPorts) free(now time.Time, port *publicPort) {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.mu.Lock()
	over := p.ports[port.publicKey] == port && port.conn == nil
	p.mu.Unlock()
	if over {
		p.close(now, port, "its agent has been gone for "+publicGrace.String())
	}
}

// logClients says at most once a second how many clients a port has, when that
// has changed, and once an outage that clients come in vain.
func (p *publicPorts) logClients(port *publicPort) {
	f := port.figures()
	p.mu.Lock()
	was, owner := port.told, port.publicOwner
	port.told = f
	p.mu.Unlock()
	if f.alone && !was.alone {
		p.server.log.Warn().Stringer("port", port.publicKey).Str("agent", owner.member).
			Msg(aloneMessage(f))
	}
	if f.clients == was.clients && f.started == was.started {
		return
	}
	p.server.log.Info().Stringer("port", port.publicKey).Str("service", owner.service).
		Int("total", f.clients+f.spares).Int("active", f.clients).Int("spare", f.spares).
		Uint64("new", f.started-was.started).Msg("public port: clients")
}

func aloneMessage(f publicFigures) string {
	if f.silent {
		return "public port: a client waits and its agent does not answer; dropping until it does, is it up?"
	}
	return "public port: a client came and no agent is connected for it; dropping until one is, is it up?"
}

// keepalive is how often the agent binds.
func (t *publicTable) keepalive() time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.granted.terms.Keepalive
}
