package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/path"
	"rendezvous/internal/relay"
	"rendezvous/proto"
)

// How a leg of a public port finds its transport: one after the other, so that
// the relay never hears of it on two at once; the one that carried the last leg
// first.
const (
	// claimWithin is how long a transport has to be answered, besides 4 round
	// trips: a bind is repeated after 50, 100, 200 and 400 ms.
	claimWithin = 800 * time.Millisecond
	// openWithin is for the opening of a stream.
	openWithin = 6 * time.Second
	// giveBackAfter holds back what could not be bound, so that the coordinator
	// does not send another at once.
	giveBackAfter = 5 * time.Second
)

// publicWay is one way to bind a leg: a conn that is opened and, once it is read,
// made ready.
type publicWay struct {
	kind  path.Kind
	open  func(ctx context.Context) (dgram.Conn, netip.AddrPort, error)
	ready func(ctx context.Context, conn dgram.Conn, far netip.AddrPort) error // nil: it is
}

// raise binds the leg over the first transport that the relay answers on.
func (l *publicLeg) raise(ctx context.Context) {
	alloc := l.p.a.ownRelay(l.alloc)
	var faults []error
	for _, way := range l.ways(alloc) {
		w, err := l.try(ctx, way, alloc)
		if ctx.Err() != nil || err == nil && l.keep(w) {
			return
		}
		if err == nil { // it ended meanwhile
			_ = w.conn.Close()
			return
		}
		faults = append(faults, fmt.Errorf("%v: %w", way.kind, err))
	}
	if len(faults) == 0 {
		faults = append(faults, errors.New("no path through the relay is both allowed and to be had here"))
	}
	l.p.a.refusals.note(l.p.a, "a leg for public clients of "+l.port.service, errors.Join(faults...))
	if path.Wait(ctx, giveBackAfter) {
		l.p.giveBack([]*publicLeg{l})
	}
}

// ways are all that may carry the leg from this network, the likely first.
func (l *publicLeg) ways(alloc *proto.Allocation) (out []publicWay) {
	a := l.p.a
	w := a.link.ways()
	allowed, _ := l.port.target.Only.Narrow(path.KindsOf(a.cfg.Paths...))
	for _, k := range relayKinds {
		if allowed != 0 && !allowed.Has(k) || a.noDoor(k, w) != nil {
			continue
		}
		switch k {
		case path.RelayUDP:
			out = append(out, publicWay{kind: k, open: func(context.Context) (dgram.Conn, netip.AddrPort, error) { return overUDP(l.p.crowd, alloc) }})
		case path.RelayFakeTCP:
			for _, far := range w.fakeTCP[:min(len(w.fakeTCP), maxDoorsTried)] {
				out = append(out, publicWay{kind: k, ready: openFakeTCP, open: func(context.Context) (dgram.Conn, netip.AddrPort, error) {
					conn, err := a.overFakeTCP(far)
					return conn, far, err
				}})
			}
		case path.RelayTLS:
			for _, at := range w.tls[:min(len(w.tls), maxDoorsTried)] {
				out = append(out, publicWay{kind: k, open: func(ctx context.Context) (dgram.Conn, netip.AddrPort, error) { return a.overTLS(ctx, at) }})
			}
		}
	}
	l.p.mu.Lock()
	prefer := l.p.prefer
	l.p.mu.Unlock()
	if w.udp { // where it passes it goes first
		prefer = path.RelayUDP
	}
	slices.SortStableFunc(out, func(x, y publicWay) int { return first(y.kind == prefer) - first(x.kind == prefer) })
	return out
}

// first is 1 for what goes before all else.
func first(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// try opens a way and binds the leg over it.
func (l *publicLeg) try(ctx context.Context, way publicWay, alloc *proto.Allocation) (*publicWire, error) {
	open, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	conn, far, err := way.open(open)
	if err != nil {
		return nil, err
	}
	leg, err := relay.NewLeg(conn, far, alloc)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	w := &publicWire{conn: conn, kind: way.kind, leg: leg, write: conn.Write}
	w.pulse = relay.NewPulse(leg, l.p.a.bindEvery(w.kind, leg, time.Duration(l.alloc.GetKeepaliveS())*time.Second))
	w.deliver = func(b dgram.Burst) error { l.fromClient(w, b); return nil }
	l.p.attend(conn, func(b dgram.Burst) { l.receive(w, b) }, func() { l.broke(w) })
	if way.ready != nil {
		err = way.ready(open, conn, far)
	}
	if err == nil {
		claim, cancel := context.WithTimeout(ctx, claimWithin+4*l.p.a.link.rtt())
		defer cancel()
		err = leg.Claim(claim)
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return w, nil
}

// attend has a conn of a leg read until it is closed, then ended called. What
// shares its reader with others ends only with its leg, so nothing is called.
func (p *publisher) attend(conn dgram.Conn, handle func(dgram.Burst), ended func()) {
	if c, ok := conn.(dgram.Attended); ok && c.Attend(handle) == nil {
		return
	}
	p.a.tasks.start(func(context.Context) {
		_ = path.Read(conn, handle)
		if ended != nil {
			ended()
		}
	})
}

// broke ends a leg whose wire was closed by others than itself: a stream may
// break.
func (l *publicLeg) broke(w *publicWire) {
	l.p.mu.Lock()
	broke := l.wire == w && !l.ended
	l.p.mu.Unlock()
	if broke {
		l.p.giveBack([]*publicLeg{l})
	}
}

// overUDP opens a UDP socket towards the relay of an allocation.
func overUDP(network dgram.Network, alloc *proto.Allocation) (dgram.Conn, netip.AddrPort, error) {
	for _, m := range alloc.GetRelay() {
		far, ok := m.AddrPort()
		if !ok {
			continue
		}
		conn, err := network.ListenUDP(netip.AddrPortFrom(dgram.Any(far.Addr()), 0))
		if err != nil {
			return nil, far, fmt.Errorf("open a socket for the relay: %w", err)
		}
		return conn, far, nil
	}
	return nil, netip.AddrPort{}, skip("blocked", "the coordinator was not seen at any address of its own, so there is none that UDP could go to", "")
}

// overFakeTCP opens a socket whose datagrams look like TCP.
func (a *Agent) overFakeTCP(far netip.AddrPort) (dgram.Opener, error) {
	return a.cfg.Host.FakeTCP.ListenFakeTCP(netip.AddrPortFrom(dgram.Any(far.Addr()), 0), nil)
}

// openFakeTCP shakes hands with the far side, and sees whether datagrams cross
// whole.
func openFakeTCP(ctx context.Context, conn dgram.Conn, far netip.AddrPort) error {
	c := conn.(dgram.Opener)
	if err := c.Open(ctx, far); err != nil {
		return err
	}
	return whole(ctx, c, far)
}

// overTLS opens a stream to a relay's leg.
func (a *Agent) overTLS(ctx context.Context, at string) (dgram.Conn, netip.AddrPort, error) {
	cert, err := a.id.Certificate()
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	return a.cfg.Dialers.RelayTLS(ctx, at, a.cfg.State.Coordinator().Pin, cert)
}

// whereabouts finds where a service is. Its name is looked up anew for each
// client, but once for those that come together.
type whereabouts struct {
	target  forward.Target
	resolve forward.Resolve
	turn    chan struct{} // holds one token: whoever has it looks up, others wait for the answer

	// of who has the token
	at  netip.AddrPort
	err error
	on  time.Time
}

func newWhereabouts(t forward.Target, resolve forward.Resolve) *whereabouts {
	w := &whereabouts{target: t, resolve: resolve, turn: make(chan struct{}, 1)}
	w.turn <- struct{}{}
	return w
}

// sameAnswer is how long one look-up serves.
const sameAnswer = 2 * time.Second

func (w *whereabouts) find(ctx context.Context) (netip.AddrPort, error) {
	select {
	case <-w.turn:
	case <-ctx.Done():
		return netip.AddrPort{}, ctx.Err()
	}
	defer func() { w.turn <- struct{}{} }()
	if w.on.IsZero() || time.Since(w.on) > sameAnswer {
		w.at, w.err = w.target.Find(ctx, w.resolve)
		w.on = time.Now()
	}
	return w.at, w.err
}
