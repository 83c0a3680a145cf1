package agent

import (
	"rendezvous/internal/forward"
	"rendezvous/internal/ops"
	"rendezvous/proto"
)

// tally is what the log tells of a port's legs.
type tally struct {
	total          uint64
	active, spares int
}

// tell logs what became of a port's legs since the last time, in one line.
func (p *publisher) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, port := range p.ports {
		now := port.tally()
		if now == port.told {
			continue
		}
		p.a.cfg.Log.Info().Str("service", port.service).Stringer("port", port.publicKey).Uint64("total", now.total).
			Int("active", now.active).Int("spare", now.spares).Msg("public clients")
		port.told = now
	}
}

// tally counts the port's legs. publisher.mu is held.
func (port *publicPort) tally() tally {
	t := tally{total: port.total, active: port.connections}
	for _, l := range port.legs {
		switch {
		case l.begun():
			t.active++
		case l.bound:
			t.spares++
		}
	}
	return t
}

// addrsOf is where clients reach a port.
func addrsOf(m *proto.Publication) []string {
	var out []string
	for _, e := range m.GetAddrs()[:min(len(m.GetAddrs()), maxDoors)] {
		if at, ok := e.AddrPort(); ok {
			out = append(out, at.String())
		}
	}
	return out
}

// status tells of the port of a service, if it has one.
func (p *publisher) status(s forward.Service) *PublicStatus {
	if s.Public == 0 {
		return nil
	}
	out := &PublicStatus{Port: int(s.Public), State: PublicWaiting}
	p.mu.Lock()
	defer p.mu.Unlock()
	port := p.ports[publicKey{port: s.Public, tcp: s.Scheme == "tcp"}]
	if port == nil || port.service != s.Name || port.target != s.Target {
		return out
	}
	t := port.tally()
	out.Clients, out.Spares, out.Total = t.active, t.spares, t.total
	for _, l := range port.legs {
		if l.begun() && !l.served.Load() {
			out.Unanswered++
		}
	}
	switch {
	case port.granted == nil:
	case port.granted.GetRefused() != "":
		out.State, out.Reason = PublicRefused, ops.Plain(port.granted.GetRefused())
	default:
		out.State, out.Addrs = PublicOpen, addrsOf(port.granted)
	}
	return out
}
