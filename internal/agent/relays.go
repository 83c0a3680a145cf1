package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/ladder"
	"rendezvous/internal/path"
	"rendezvous/internal/relay"
	"rendezvous/proto"
)

// How our leg of an allocation gets its transport: UDP goes first where it
// passes, for what is dressed as TCP or waits in a stream costs more.
const (
	// relayWithin bounds the binding of both legs and the first probe across.
	relayWithin = 8 * time.Second
	// relayStagger is how long each transport waits for the better one, two
	// round trips at least.
	relayStagger = 400 * time.Millisecond
	// relayShort is that wait while UDP is in question.
	relayShort = 100 * time.Millisecond
)

// relayKinds are the kinds of path through the relay, best first.
var relayKinds = []path.Kind{path.RelayUDP, path.RelayFakeTCP, path.RelayTLS}

// relayAllowed says whether any kind of relayed path is allowed here.
func (a *Agent) relayAllowed() bool { return slices.ContainsFunc(relayKinds, a.allows) }

// relayed says whether a peer allows any kind of relayed path. Which one its
// own leg takes is its affair.
func (o offered) relayed() bool { return slices.ContainsFunc(relayKinds, o.allows) }

// legConn is a conn for our leg and the relay's address on it.
type legConn struct {
	conn dgram.Conn
	far  netip.AddrPort
}

// relayRace is one allocation: each transport of our leg is a rung, and the
// first over which the relay answers carries the leg.
type relayRace struct {
	as    *association
	alloc *proto.Allocation

	mu  sync.Mutex
	won path.Kind
	// over is closed once a transport has won.
	over chan struct{}
}

// relayRung is one transport in the race.
type relayRung struct {
	*relayRace
	kind  path.Kind
	after time.Duration
	open  func(ctx context.Context) (legConn, error)
}

// relaySteps are the rungs of an allocation. Legs that we have are avoided
// where the allocation was asked for to have another kind beside them.
func (as *association) relaySteps(c climbing) []ladder.Step {
	switch {
	case !as.a.relayAllowed():
		return []ladder.Step{{Rung: refused{path.RelayUDP, "this agent"}}}
	case !c.theirs.relayed():
		return []ladder.Step{{Rung: refused{path.RelayUDP, "the peer"}}}
	case c.allocation == nil:
		return nil
	}
	race := &relayRace{as: as, alloc: as.a.ownRelay(c.allocation), over: make(chan struct{})}
	w := as.a.link.ways()
	var steps []ladder.Step
	wait := time.Duration(0)
	for _, k := range relayKinds {
		if why := as.noRelay(k, w, c); why != nil {
			steps = append(steps, ladder.Step{Rung: hopeless{k, why}})
			continue
		}
		steps = append(steps, ladder.Step{Rung: race.rung(k, w, wait)})
		stagger := max(relayStagger, 2*as.a.link.rtt())
		if k == path.RelayUDP && !w.udp {
			stagger = relayShort
		}
		wait += stagger
	}
	return steps
}

// noRelay is why a transport of our leg is not tried, nil if it is.
func (as *association) noRelay(k path.Kind, w ways, c climbing) *path.Failure {
	cfg := &as.a.cfg
	switch {
	case !as.a.allows(k):
		return notAllowed(k, "this agent")
	case as.raw != nil && k != path.RelayUDP:
		return skip("not-needed", "a raw flow's datagrams cross sealed where UDP does not pass", "")
	case c.another && as.hasLeg(k):
		return skip("not-needed", "there is such a path already", "")
	case k == path.RelayUDP && w.udpDead:
		return skip("blocked", "the coordinator does not answer over UDP from this network", "open UDP to the coordinator's port in the firewall here")
	case k == path.RelayFakeTCP && cfg.FakeTCP == nil:
		return as.a.noFakeTCP()
	case k == path.RelayFakeTCP && len(w.fakeTCP) == 0:
		return skip("unsupported", "the coordinator has no port open for fake TCP, or its address is not proven", "run it as root or with CAP_NET_RAW")
	case k == path.RelayTLS && cfg.RelayTLS == nil:
		return skip("unsupported", "this agent was built or set up without TLS to the relay", "")
	case k == path.RelayTLS && len(w.tls) == 0:
		return skip("unsupported", "the coordinator has no port open for TLS", "run a coordinator of this version")
	}
	return nil
}

func skip(reason, evidence, advice string) *path.Failure {
	return &path.Failure{Reason: reason, Skipped: true, Evidence: evidence, Advice: advice}
}

// noFakeTCP is why this host dresses no datagrams as TCP.
func (a *Agent) noFakeTCP() *path.Failure {
	if a.cfg.NoFakeTCP != nil {
		return a.cfg.NoFakeTCP
	}
	return skip("unsupported", "this agent was set up without fake TCP", "")
}

func (r *relayRace) rung(k path.Kind, w ways, after time.Duration) *relayRung {
	out := &relayRung{relayRace: r, kind: k, after: after}
	a := r.as.a
	switch k {
	case path.RelayUDP:
		out.open = func(context.Context) (legConn, error) { return a.legOverUDP(r.alloc) }
	case path.RelayFakeTCP:
		out.open = func(ctx context.Context) (legConn, error) { return a.legOverFakeTCP(ctx, w.fakeTCP) }
	case path.RelayTLS:
		out.open = func(ctx context.Context) (legConn, error) { return a.legOverTLS(ctx, w.tls) }
	}
	return out
}

// claim says whether k is the first.
func (r *relayRace) claim(k path.Kind) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.won != path.None {
		return false
	}
	r.won = k
	close(r.over)
	return true
}

func (r *relayRace) winner() path.Kind {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.won
}

func (r *relayRace) notNeeded() error {
	return skip("not-needed", r.winner().String()+" was bound first", "")
}

// Kind is the kind of path that our leg's transport makes.
func (r *relayRung) Kind() path.Kind { return r.kind }

// Climb opens the transport, binds, probes the peer across, and leaves a task
// behind that keeps the leg.
func (r *relayRung) Climb(ctx context.Context, try path.Try) error {
	ctx, cancel := context.WithTimeout(ctx, relayWithin)
	defer cancel()
	e, err := r.take(ctx)
	if err != nil {
		return err
	}
	as := r.as
	if err := e.leg.Bind(ctx); err != nil {
		as.removeLeg(e)
		as.discard([]*endpoint{e})
		return &path.Failure{Reason: "relay-unbound",
			Evidence: fmt.Sprintf("asked the relay %v for %v; %v", e.leg.Addr(), relayWithin, err),
			Advice:   "check that the peer is still running, and reaches the coordinator"}
	}
	if _, err := try(ctx, path.Path{Conn: e.conn, Addr: e.leg.Addr()}, r.kind); err != nil {
		as.removeLeg(e)
		as.discard([]*endpoint{e})
		return &path.Failure{Reason: "no-answer", Evidence: err.Error(),
			Advice: "both legs were bound but nothing crossed: is the peer still running?"}
	}
	as.a.tasks.start(func(context.Context) { as.keepLeg(e) })
	return nil
}

// take gives the endpoint of our leg, over the transport that the relay has
// answered on first.
func (r *relayRung) take(ctx context.Context) (*endpoint, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if !r.headStart(ctx) {
		if r.winner() != path.None {
			return nil, r.notNeeded()
		}
		return nil, ctx.Err()
	}
	stop := r.endWith(ctx, cancel)
	defer stop()
	began := time.Now()
	c, err := r.open(ctx)
	if err != nil {
		return nil, r.failed(ctx, err, began)
	}
	leg, err := relay.NewLeg(c.conn, c.far, r.alloc)
	if err != nil {
		_ = c.conn.Close()
		return nil, err
	}
	e := newEndpoint(c.conn, r.kind, r.as.a.board)
	e.owner, e.leg = r.as.Session, leg
	r.as.keep(e)
	if err := leg.Claim(ctx); err != nil {
		r.as.discard([]*endpoint{e})
		return nil, r.failed(ctx, err, began)
	}
	if !r.claim(r.kind) {
		r.as.discard([]*endpoint{e})
		return nil, r.notNeeded()
	}
	// From now on, so that a NAT that forgets us meanwhile costs no more than
	// the next doubt: that binds all legs again.
	r.as.addLeg(e)
	return e, nil
}

// headStart lets the better transports go ahead; false: one of them has won.
func (r *relayRung) headStart(ctx context.Context) bool {
	timer := time.NewTimer(r.after)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.over:
	case <-ctx.Done():
	}
	return false
}

// endWith cancels once another transport has won; stop ends the wait for it.
func (r *relayRung) endWith(ctx context.Context, cancel context.CancelFunc) (stop func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-r.over:
			cancel()
		case <-ctx.Done():
		}
	}()
	return func() { cancel(); <-ended }
}

// failed says why the relay was not reached over this transport.
func (r *relayRung) failed(ctx context.Context, err error, began time.Time) error {
	if won := r.winner(); won != path.None && won != r.kind {
		return r.notNeeded()
	}
	var f *path.Failure
	if errors.As(err, &f) {
		return f
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return &path.Failure{Reason: "relay-unbound",
		Evidence: fmt.Sprintf("asked the relay for %v; %v", time.Since(began).Round(time.Millisecond), err),
		Advice:   "check that " + wireOf[r.kind] + " passes to the coordinator's port"}
}

var wireOf = map[path.Kind]string{path.RelayUDP: "UDP", path.RelayFakeTCP: "what looks like TCP", path.RelayTLS: "TLS over TCP"}

// legOverUDP opens a UDP socket for a leg.
func (a *Agent) legOverUDP(alloc *proto.Allocation) (legConn, error) {
	for _, e := range alloc.GetRelay() {
		far, ok := e.AddrPort()
		if !ok {
			continue
		}
		conn, err := a.cfg.Net.ListenUDP(netip.AddrPortFrom(unspecified(far.Addr()), 0))
		if err != nil {
			return legConn{}, fmt.Errorf("open a socket for the relay: %w", err)
		}
		return legConn{conn, far}, nil
	}
	return legConn{}, skip("blocked", "the coordinator was not seen at any address of its own, so there is none that UDP could go to", "")
}

// unspecified is the address that stands for all of a family.
func unspecified(like netip.Addr) netip.Addr {
	if like.Unmap().Is4() {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// maxDoorsTried is how many of the coordinator's ports are tried for a leg.
const maxDoorsTried = 3

// legOverFakeTCP opens a socket for a leg whose datagrams look like TCP.
func (a *Agent) legOverFakeTCP(ctx context.Context, doors []netip.AddrPort) (legConn, error) {
	return firstOpen(ctx, doors, func(ctx context.Context, far netip.AddrPort) (legConn, error) {
		conn, err := a.cfg.FakeTCP.ListenFakeTCP(netip.AddrPortFrom(unspecified(far.Addr()), 0), nil)
		if err != nil {
			return legConn{}, err
		}
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		if err := conn.Open(ctx, far); err == nil && stop() {
			return legConn{conn, far}, nil
		} else if err != nil {
			_ = conn.Close()
			return legConn{}, fmt.Errorf("open %v: %w", far, err)
		}
		return legConn{}, ctx.Err()
	})
}

// legOverTLS opens a stream for a leg.
func (a *Agent) legOverTLS(ctx context.Context, doors []string) (legConn, error) {
	cert, err := a.id.Certificate()
	if err != nil {
		return legConn{}, err
	}
	return firstOpen(ctx, doors, func(ctx context.Context, at string) (legConn, error) {
		conn, far, err := a.cfg.RelayTLS(ctx, at, a.cfg.State.Coordinator().Pin, cert)
		return legConn{conn, far}, err
	})
}

// firstOpen tries doors one after the other, each a moment after the one
// before or at once when that has failed, and returns the first that opens
// (RFC 8305 section 5).
func firstOpen[D any](ctx context.Context, doors []D, open func(context.Context, D) (legConn, error)) (legConn, error) {
	doors = doors[:min(len(doors), maxDoorsTried)]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   legConn
		err error
	}
	results := make(chan result, len(doors))
	timer := time.NewTimer(0)
	defer timer.Stop()
	var faults []error
	for next, running := 0, 0; next < len(doors) || running > 0; {
		select {
		case <-timer.C:
			if next == len(doors) {
				continue
			}
			at := doors[next]
			next, running = next+1, running+1
			go func() {
				c, err := open(ctx, at)
				results <- result{c, err}
			}()
			timer.Reset(dialStagger)
		case r := <-results:
			running--
			if r.err == nil {
				cancel()
				for range running {
					if late := <-results; late.err == nil {
						_ = late.c.conn.Close()
					}
				}
				return r.c, nil
			}
			faults = append(faults, r.err)
			timer.Reset(0)
		}
	}
	return legConn{}, errors.Join(faults...)
}

func (as *association) addLeg(e *endpoint) {
	as.mu.Lock()
	as.legs = append(as.legs, e)
	as.mu.Unlock()
}

// removeLeg forgets the leg on e and says how many are left.
func (as *association) removeLeg(e *endpoint) int {
	as.mu.Lock()
	defer as.mu.Unlock()
	as.legs = slices.DeleteFunc(as.legs, func(k *endpoint) bool { return k == e })
	return len(as.legs)
}

// hasLeg says whether there is a leg of that kind.
func (as *association) hasLeg(k path.Kind) bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	return slices.ContainsFunc(as.legs, func(e *endpoint) bool { return e.kind == k })
}

// keepLeg refreshes a leg until it ends; a relay that no longer knows it (the
// coordinator was restarted), or a stream that broke, makes us ask for another
// allocation.
func (as *association) keepLeg(e *endpoint) {
	ctx, cancel := context.WithCancel(as.ctx)
	defer cancel()
	as.a.tasks.start(func(context.Context) {
		select {
		case <-e.ended:
			cancel()
		case <-ctx.Done():
		}
	})
	_ = e.leg.Keep(ctx) // either way the leg is over
	left := as.removeLeg(e)
	if as.ctx.Err() != nil {
		return
	}
	as.Drop(path.Path{Conn: e.conn, Addr: e.leg.Addr()})
	as.discard([]*endpoint{e})
	if left == 0 {
		as.needSpare()
	}
}
