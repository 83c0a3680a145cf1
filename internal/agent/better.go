package agent

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

const (
	// betterEvery is how often UDP is asked again while something else carries
	// the control connection.
	betterEvery = time.Minute
	// askUDP is how long UDP is listened to, besides some round trips.
	askUDP = time.Second
	// quietWithin bounds the wait for calls to end before a connection is left.
	quietWithin = 2 * time.Second
)

// better looks for a way over UDP while the control connection takes another,
// at once and then every minute, and returns a registered connection, or nil
// when ctx ends. To register may outlast ctx: the coordinator has left the
// old connection by then.
func (l *link) better(ctx, parent context.Context, now *reached) *reached {
	ports := wellKnown[:]
	if !slices.Contains(ports, now.how.port()) && now.how.port() != portOf(l.a.cfg.State.Coordinator().Addr) {
		ports = LikelyPorts() // an unusual network: what passes over UDP is no less so
	}
	for first := true; ; first = false {
		at := l.askUDP(ctx, now.RTT(), ports)
		if at.IsValid() || first {
			if d := l.moveToUDP(ctx, parent, now, at); d != nil {
				return d
			}
		}
		timer := time.NewTimer(betterEvery*3/4 + rand.N(betterEvery/2))
		select {
		case <-timer.C:
		case <-l.again:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// askUDP asks the coordinator's own ports and these for a STUN answer, which is
// cheap, and notes whether any came. It returns where the first came from. Each
// port is asked from a socket of its own: where the coordinator's host
// translates ports, it shows the main socket's true address only to the first
// of them that a flow from there has come to.
func (l *link) askUDP(parent context.Context, rtt time.Duration, ports []uint16) (first netip.AddrPort) {
	ctx, cancel := context.WithTimeout(parent, min(askUDP+3*rtt, dialWithin))
	defer cancel()
	var wait sync.WaitGroup
	var once sync.Once
	for _, t := range l.overUDP(ctx, ports) {
		wait.Go(func() {
			if l.a.answers(ctx, t.addr) {
				once.Do(func() { first = t.addr })
				cancel()
			}
		})
	}
	wait.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case first.IsValid():
		l.reach.udp = yes
	case parent.Err() == nil:
		l.reach.udp = no
	}
	return first
}

// answers says whether a STUN server answers a new socket of ours.
func (a *Agent) answers(ctx context.Context, server netip.AddrPort) bool {
	conn, err := a.cfg.Host.Net.ListenUDP(netip.AddrPortFrom(dgram.Any(server.Addr()), 0))
	if err != nil {
		return false
	}
	e := newEndpoint(conn, path.DirectUDP, a.board)
	a.tasks.start(func(context.Context) { e.read() })
	defer e.close()
	_, err = e.stun.Bind(ctx, server)
	return err == nil
}

// overUDP are all attempts over UDP.
func (l *link) overUDP(ctx context.Context, ports []uint16) (list []attempt) {
	c := l.a.cfg.State.Coordinator()
	addrs, err := l.resolve(ctx, c)
	if err != nil {
		return nil
	}
	p := l.newPlan(c)
	p.tls, p.faked, p.worked = false, false, Network{}
	p.byAddr(l.reachable(addrs), ports)
	return p.sorted()
}

// moveToUDP dials, first where an answer came from, and registers.
func (l *link) moveToUDP(ctx, parent context.Context, now *reached, first netip.AddrPort) *reached {
	cert, err := l.a.id.Certificate()
	if err != nil {
		return nil
	}
	p := plan{list: l.overUDP(ctx, wellKnown[:])}
	if first.IsValid() {
		// Behind the link's own port, which is preferred where both pass.
		p.add(attempt{over: proto.Transport_TRANSPORT_UDP, addr: first, after: nextDoor})
	}
	r := race{cert: cert, try: l.try, lost: func(attempt, error) {}, began: time.Now(), waiting: p.sorted(), results: make(chan outcome)}
	d := r.run(ctx, nil, nil)
	if d == nil {
		return nil
	}
	now.quiet(ctx)
	reg, err := l.register(parent, d)
	if err != nil {
		_ = d.Close()
		return nil
	}
	l.adopt(d, reg)
	return d
}

// quiet waits until nobody waits for an answer on the connection, or not much
// longer.
func (d *reached) quiet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, quietWithin)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for d.line.calls.Load() > 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// leave takes in what the coordinator still says on a connection that another
// has replaced, and closes it.
func (l *link) leave(ctx context.Context, d *reached) {
	defer func() { _ = d.Close() }()
	quiet, cancel := context.WithTimeout(ctx, quietWithin)
	defer cancel()
	l.serve(ctx, d, quiet.Done())
}

// seekAll looks at once for better paths to all peers: UDP passes again in this
// network, and who has given up on it waits long between tries.
func (a *Agent) seekAll() {
	for _, p := range a.peers.all() {
		if as := p.association(); as != nil && as.Best() != path.None && len(as.betterThan(as.Best())) > 0 {
			a.tasks.start(func(context.Context) { as.seekFor(as.otherKinds) })
		}
	}
}
