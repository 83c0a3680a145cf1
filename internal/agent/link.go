package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"rendezvous/proto"
)

// link is the agent's connection to its coordinator: made again whenever it is
// lost, for ever, and never in the way of data.
type link struct {
	a       *Agent
	answers answerBook
	urgent  chan struct{} // look whether the connection still works
	again   chan struct{} // look for a better one
	resumed chan struct{} // a session is in use again

	resolve func(ctx context.Context, c Coordinator) ([]netip.AddrPort, error)

	raced raced

	hunt hunt // of the goroutine that dials, without the mutex

	mu         sync.Mutex // for what follows
	client     *Connection
	how        attempt        // how it was made, or the last one was
	addr       netip.AddrPort // where the coordinator has proven its key
	err        error
	registered chan struct{} // closed once registered, replaced when lost
	network    string        // fingerprint of the one here
	reach      learned
}

// hunt is what was tried in one network since something worked.
type hunt struct {
	in       string // the network
	sweeps   sweeps
	troubles troubles
}

func newLink(a *Agent) *link {
	return &link{
		a: a, urgent: make(chan struct{}, 1), again: make(chan struct{}, 1), resumed: make(chan struct{}, 1),
		resolve:    func(ctx context.Context, c Coordinator) ([]netip.AddrPort, error) { return c.Addrs(ctx) },
		hunt:       hunt{troubles: make(troubles)},
		registered: make(chan struct{}),
		err:        errors.New("it is being tried for the first time"),
		reach:      learned{doors: a.cfg.State.Coordinator().Doors},
	}
}

const (
	redialFirst = 200 * time.Millisecond
	redialMost  = 3 * time.Second
	// redialRefused follows a refusal that only a person can end.
	redialRefused = 30 * time.Second
	callWithin    = 5 * time.Second
	pingActive    = 2 * time.Second
	refreshEvery  = 30 * time.Second
)

// run keeps the link up until ctx ends.
func (l *link) run(ctx context.Context) {
	wait := redialFirst
	for ctx.Err() == nil {
		began := time.Now()
		err := l.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > 2*redialMost {
			wait = redialFirst
		}
		l.lost(err)
		// Jitter, so that all agents of a coordinator that restarts don't come at once.
		pause := wait/2 + rand.N(wait/2+1)
		wait = min(2*wait, redialMost)
		if errors.Is(err, ErrReplaced) || errors.Is(err, ErrRevoked) {
			pause = redialRefused
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.urgent:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// lost notes why there is no link, and logs it once for each reason.
func (l *link) lost(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil || err != nil && l.err.Error() != err.Error() {
		l.a.cfg.Log.Warn().Err(err).Msg("no connection to the coordinator; trying again")
	}
	if l.client != nil {
		l.registered = make(chan struct{})
	}
	l.client, l.err = nil, err
	if l.err == nil {
		l.err = errors.New("the connection was closed")
	}
}

// once dials, registers and serves one connection, and those that replace it,
// until none is left.
func (l *link) once(ctx context.Context) error {
	d, err := l.dial(ctx)
	if err != nil {
		return err
	}
	reg, err := l.register(ctx, d)
	if err != nil {
		_ = d.Close()
		return err
	}
	l.adopt(d, reg)
	l.a.mapper.look() // whatever ended the last connection may have been the router's restart
	for _, p := range l.a.peers.all() {
		p.linkIsBack(ctx)
	}
	for d != nil {
		if d, err = l.hold(ctx, d); d != nil {
			l.a.seekAll()
		}
	}
	return err
}

// adopt makes d the agent's connection.
func (l *link) adopt(d *reached, reg *proto.Registered) {
	if d.how.over == proto.Transport_TRANSPORT_UDP {
		l.observed(d.Connection, reg)
	}
	doors := doorsTold(reg.GetDoors())
	l.mu.Lock()
	l.client, l.how, l.err = d.Connection, d.how, nil
	if d.Addr.IsValid() {
		l.addr = d.Addr
	}
	l.reach.doors, l.reach.preferred, l.reach.trials = doors, 0, nil
	l.reach.took(d.how)
	select {
	case <-l.registered:
	default:
		close(l.registered)
	}
	network := Network{ID: l.network, Over: d.how.over, Port: d.how.port()}
	l.mu.Unlock()
	told := l.a.cfg.Log.Info().Str("coordinator", d.where()).Str("over", overName(d.how.over))
	if d.Via != "" {
		told = told.Str("via", d.Via)
	}
	told.Dur("rtt", d.RTT()).Msg("registered")
	d.keep(l.a.keepalive())
	l.a.public.ask()
	if err := errors.Join(l.a.cfg.State.SawWorking(network), l.a.cfg.State.SawDoors(doors)); err != nil {
		l.a.refusals.note(l.a, "state", err)
	}
}

// hold serves a connection until it is lost, or another has replaced it, which
// it returns.
func (l *link) hold(ctx context.Context, d *reached) (next *reached, err error) {
	parent := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	moved := make(chan struct{})
	var tasks sync.WaitGroup
	var silent error
	tasks.Go(func() { silent = l.ping(ctx, d) })
	tasks.Go(func() { l.publish(ctx, d.Connection) })
	tasks.Go(func() { l.prefer(ctx, d) })
	if d.how.over != proto.Transport_TRANSPORT_UDP {
		tasks.Go(func() {
			if next = l.better(ctx, parent, d); next != nil {
				close(moved)
			}
		})
	}
	stop := context.AfterFunc(parent, func() { _ = d.Close() })
	defer stop()
	l.serve(parent, d, moved)
	cancel()
	tasks.Wait()
	if next == nil {
		_ = d.Close()
		return nil, cmp.Or(silent, d.Why())
	}
	l.a.tasks.start(func(ctx context.Context) { l.leave(ctx, d) })
	return next, nil
}

// serve takes in events until the connection ends, or enough says so.
func (l *link) serve(ctx context.Context, d *reached, enough <-chan struct{}) {
	for {
		select {
		case m, ok := <-d.Events():
			if !ok {
				return
			}
			l.event(ctx, m)
		case <-enough:
			return
		}
	}
}

// ping asks the coordinator for a sign of life more often than the client's
// own heartbeat does: while a session is in use, and when told to check. It
// closes the connection that gives none, and says so.
func (l *link) ping(ctx context.Context, d *reached) error {
	timer := time.NewTimer(pingActive)
	defer timer.Stop()
	for waits := true; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-l.resumed:
			if !waits {
				waits = true
				timer.Reset(pingActive)
			}
			continue
		case <-timer.C:
			if waits = l.a.inUse(); !waits {
				continue
			}
			timer.Reset(pingActive)
		case <-l.urgent:
		}
		pctx, cancel := context.WithTimeout(ctx, pingActive+3*d.RTT())
		_, err := d.Call(pctx, &proto.ToCoordinator{})
		silent := pctx.Err() != nil
		cancel()
		if err != nil && ctx.Err() == nil {
			_ = d.Close()
			if !silent {
				return nil // Why says more
			}
			return fmt.Errorf("%s stopped answering over %s", d.where(), overName(d.how.over))
		}
	}
}

// inUse says whether data has crossed lately.
func (a *Agent) inUse() bool {
	for _, p := range a.peers.all() {
		if as := p.association(); as != nil && time.Since(as.LastData()) < 3*pingActive {
			return true
		}
	}
	return false
}

// resume has the link ask for signs of life again: a session is in use.
func (l *link) resume() { notice(l.resumed) }

// check makes the link look at once whether it still works, and for a better
// way.
func (l *link) check() {
	l.look()
	for _, c := range []chan struct{}{l.urgent, l.again} {
		notice(c)
	}
}
