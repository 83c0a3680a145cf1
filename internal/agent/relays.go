package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/ladder"
	"rendezvous/internal/path"
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
	// relayPromise is how much longer they wait where a better one is open, and
	// is being looked at for a box on the way that takes it apart.
	relayPromise = 800 * time.Millisecond
	// doorStagger is the wait between two ports of the coordinator's (RFC 8305
	// section 8), of which so many are tried.
	doorStagger   = 250 * time.Millisecond
	maxDoorsTried = 3
)

// relayKinds are the kinds of path through the relay, best first.
var relayKinds = []path.Kind{path.RelayUDP, path.RelayFakeTCP, path.RelayTLS}

// relayAllowed says whether any kind of relayed path is allowed here.
func (a *Agent) relayAllowed() bool { return slices.ContainsFunc(relayKinds, a.allows) }

// relayed says whether a peer allows any kind of relayed path. Which one its
// own leg takes is its affair.
func (o offered) relayed() bool { return slices.ContainsFunc(relayKinds, o.allows) }

// relayRace is one allocation: each transport of our leg is a rung, and the
// first over which the relay answers carries the leg.
type relayRace struct {
	as    *association
	alloc *proto.Allocation

	mu  sync.Mutex
	won path.Kind
	// over is closed once a transport has won.
	over chan struct{}
	// promise, where there is one, is closed once a transport that is open
	// turns out to be of no use.
	promise chan struct{}
}

// relayRung is one transport in the race.
type relayRung struct {
	*relayRace
	kind  path.Kind
	after time.Duration
	open  func(ctx context.Context) (*endpoint, error)
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
	if c.another && !slices.ContainsFunc(relayKinds, func(k path.Kind) bool { return as.noRelay(k, w, c) == nil }) {
		c.another = false // the peer wants another leg of its own, which needs one of ours
	}
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
	switch {
	case !as.a.allows(k):
		return notAllowed(k, "this agent")
	case as.raw != nil && k != path.RelayUDP:
		return skip("not-needed", "a raw flow's datagrams cross sealed where UDP does not pass", "")
	case c.another && as.hasLeg(k):
		return skip("not-needed", "there is such a path already", "")
	case c.another && !as.relayWanted(k):
		return skip("not-needed", "a service waits for another kind of leg", "")
	}
	return as.a.noDoor(k, w)
}

// relayWanted says whether a leg of kind k is worth having beside others: any
// is, unless services wait for kinds of leg of their own.
func (as *association) relayWanted(k path.Kind) bool {
	wanted := as.Starving()
	return !slices.ContainsFunc(relayKinds, wanted.Has) || wanted.Has(k)
}

// noDoor is why no leg of ours could have a transport in this network, nil if
// one could.
func (a *Agent) noDoor(k path.Kind, w ways) *path.Failure {
	switch k {
	case path.RelayUDP:
		if w.udpDead {
			return skip("blocked", "the coordinator does not answer over UDP from this network", "open UDP to the coordinator's port in the firewall here")
		}
	case path.RelayFakeTCP:
		switch {
		case a.cfg.Host.FakeTCP == nil:
			return a.noFakeTCP()
		case len(w.fakeTCP) == 0 && len(w.udpAt) == 0:
			return skip("blocked", "the coordinator is reached through a proxy, and fake TCP does not pass through one", "")
		case len(w.fakeTCP) == 0:
			return skip("unsupported", "the coordinator has no port open for fake TCP", "run the coordinator as root or with CAP_NET_RAW")
		}
	case path.RelayTLS:
		switch {
		case a.cfg.Dialers.RelayTLS == nil:
			return skip("unsupported", "this agent was set up without TLS to the relay", "")
		case len(w.tls) == 0:
			return skip("unsupported", "the coordinator has no port open for TLS", "run a coordinator of this version")
		}
	}
	return nil
}

func skip(reason, evidence, advice string) *path.Failure {
	return &path.Failure{Reason: reason, Skipped: true, Evidence: evidence, Advice: advice}
}

// noFakeTCP is why this host dresses no datagrams as TCP.
func (a *Agent) noFakeTCP() *path.Failure {
	if a.cfg.Host.NoFakeTCP != nil {
		return a.cfg.Host.NoFakeTCP
	}
	return skip("unsupported", "this agent was set up without fake TCP", "")
}

func (r *relayRace) rung(k path.Kind, w ways, after time.Duration) *relayRung {
	out := &relayRung{relayRace: r, kind: k, after: after}
	switch k {
	case path.RelayUDP:
		out.open = func(context.Context) (*endpoint, error) { return out.overUDP() }
	case path.RelayFakeTCP:
		out.open = func(ctx context.Context) (*endpoint, error) {
			return firstOpen(ctx, r.as, w.fakeTCP, out.overFakeTCP)
		}
	case path.RelayTLS:
		out.open = func(ctx context.Context) (*endpoint, error) { return firstOpen(ctx, r.as, w.tls, out.overTLS) }
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
	e, err := r.open(ctx)
	if err != nil {
		return nil, r.failed(ctx, err, began)
	}
	if err := e.leg.Claim(ctx); err != nil {
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

// headStart lets the better transports go ahead, longer where one is open and
// is being looked at; false: one of them has won.
func (r *relayRung) headStart(ctx context.Context) bool {
	if !r.wait(ctx, r.after, nil) {
		return false
	}
	r.mu.Lock()
	promise := r.promise
	r.mu.Unlock()
	return promise == nil || r.wait(ctx, relayPromise, promise)
}

// wait waits for d, or until sooner is closed; false: the race is over.
func (r *relayRung) wait(ctx context.Context, d time.Duration, sooner <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-sooner:
		return true
	case <-r.over:
	case <-ctx.Done():
	}
	return false
}

// promises says that a transport is open, until withdraw is called.
func (r *relayRace) promises() (withdraw func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.promise != nil {
		return func() {} // another door's stands
	}
	promise := make(chan struct{})
	r.promise = promise
	return func() { close(promise) }
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
