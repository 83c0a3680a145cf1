package agent

import (
	"context"
	"net/netip"
	"time"

	"rendezvous/internal/path"
	"rendezvous/internal/relay"
	"rendezvous/internal/stun"
)

const (
	// keepaliveAt is the part of an idle mapping's lifetime after which something
	// is sent to hold it.
	keepaliveAt = 0.8
	// idleShortest is assumed where a mapping ends sooner than any that is looked
	// for.
	idleShortest = 5 * time.Second
	// idleHolds is how long what was found is believed in.
	idleHolds = 7 * 24 * time.Hour
)

// idleness is what is known of how long a mapping lasts that nothing crosses.
// The mutex of ages guards it.
type idleness struct {
	lifetime time.Duration
	at       time.Time // zero: not known
	tried    time.Time // when it was last looked for
}

// measureIdle begins to measure where nothing is known. Caller holds g.mu.
func (g *ages) measureIdle(a *Agent) {
	i := &g.idle
	if !i.at.IsZero() && time.Since(i.at) < idleHolds || !i.tried.IsZero() && time.Since(i.tried) < watchAgain {
		return
	}
	servers := sameFamily(a.stunServers(), true)
	if len(servers) == 0 {
		return
	}
	i.tried = time.Now()
	network := g.network
	a.tasks.start(func(ctx context.Context) { a.learnIdle(ctx, network, servers[0]) })
}

// learnIdle measures, and has the sessions hold their mappings accordingly.
func (a *Agent) learnIdle(ctx context.Context, network string, server netip.AddrPort) {
	lifetime, err := stun.Idle(ctx, a.cfg.Host.Net, server)
	g := &a.nature.ages
	g.mu.Lock()
	if g.enter(a) != network || err != nil {
		g.mu.Unlock()
		return
	}
	g.idle.lifetime, g.idle.at = max(lifetime, idleShortest), time.Now()
	g.keep(a)
	g.mu.Unlock()
	a.cfg.Log.Info().Dur("lifetime", lifetime).Dur("keepalive", a.keepalive()).Msg("the NAT here keeps idle mappings at least so long")
	a.setKeepalives()
}

// keepalive is how often an idle path over IPv4 is probed in this network. What
// the settings say goes before what was measured.
func (a *Agent) keepalive() time.Duration {
	if a.cfg.Keepalive != DefaultConfig().Keepalive {
		return a.cfg.Keepalive
	}
	g := &a.nature.ages
	g.mu.Lock()
	defer g.mu.Unlock()
	g.enter(a)
	if g.idle.at.IsZero() || time.Since(g.idle.at) > 2*idleHolds {
		return a.cfg.Keepalive
	}
	return time.Duration(keepaliveAt * float64(g.idle.lifetime))
}

// setKeepalives has all sessions, their relay legs and the control connection go
// by what is known of this network.
func (a *Agent) setKeepalives() {
	d := a.keepalive()
	for _, p := range a.peers.all() {
		for _, as := range p.associations() {
			as.Keep(d)
			as.mu.Lock()
			for _, e := range as.sockets.legs {
				as.pace(e, d)
			}
			as.mu.Unlock()
		}
	}
	if c := a.link.current(); c != nil {
		c.keep(d)
	}
}

// measured says whether what is known of mappings here holds for a leg: it is
// UDP's over IPv4, so not of one over a stream, or over IPv6.
func measured(kind path.Kind, leg *relay.Leg) bool {
	return kind == path.RelayUDP && leg.Addr().Addr().Unmap().Is4()
}

// pace has a leg be bound as often as its mapping needs, where that is known.
func (as *association) pace(e *endpoint, keepalive time.Duration) {
	if measured(e.kind, e.leg) {
		e.leg.Pace(keepalive)
	}
}

// bindEvery is how often a leg of a public port is bound, which the coordinator
// granted, or its mapping needs.
func (a *Agent) bindEvery(kind path.Kind, leg *relay.Leg, granted time.Duration) time.Duration {
	if measured(kind, leg) {
		return min(granted, a.keepalive())
	}
	return granted
}
