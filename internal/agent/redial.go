package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"rendezvous/proto"
)

// maxAtOnce bounds the attempts that are under way.
const maxAtOnce = 32

const (
	sweepFirst = 4 * time.Second
	sweepMost  = 30 * time.Second
)

// sweeps says when all ports are tried again: after a while that grows, since
// what is likely is tried in every race.
type sweeps struct {
	last  time.Time
	wait  time.Duration
	count int // those that were due
}

// due says whether this race is to try everything.
func (s *sweeps) due(now time.Time) bool {
	if !s.last.IsZero() && now.Sub(s.last) < s.wait {
		return false
	}
	s.last, s.wait = now, min(max(sweepFirst, 2*s.wait), sweepMost)
	s.count++
	return true
}

// dial tries all that may reach the coordinator side by side. Its name is
// looked up anew each time, and what needs no address does not wait for that.
func (l *link) dial(ctx context.Context) (*reached, error) {
	c := l.a.cfg.State.Coordinator()
	cert, err := l.a.id.Certificate()
	if err != nil {
		return nil, err
	}
	wide := l.sweep()
	race := race{
		cert: cert, began: time.Now(), results: make(chan outcome),
		try: l.try,
		lost: func(t attempt, err error) {
			if !t.brief || slices.Contains(wellKnown[:], t.port()) { // others were tried by chance
				l.hunt.troubles.note(t, err)
			}
		},
	}
	p := l.newPlan(c)
	p.byName(wide)
	race.waiting = p.sorted()
	found := make(chan resolution, 1)
	rctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		addrs, err := l.resolve(rctx, c)
		found <- resolution{addrs, err}
	}()
	plans := func(r resolution) []attempt {
		addrs := l.reachable(r.addrs)
		switch {
		case r.err != nil:
			err = r.err
		case len(addrs) == 0:
			err = fmt.Errorf("no address of the coordinator is of a family that this host has: %v", r.addrs)
		}
		p := l.newPlan(c)
		p.byAddr(addrs, wide)
		return p.sorted()
	}
	if won := race.run(ctx, found, plans); won != nil {
		clear(l.hunt.troubles)
		l.hunt.sweeps = sweeps{}
		return won, nil
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, l.whyLost(c, err)
}

// sweep gives the ports that are tried besides the likely ones, if that is due in
// this network.
func (l *link) sweep() (wide []uint16) {
	if network := l.look(); network != l.hunt.in {
		l.hunt.in, l.hunt.sweeps = network, sweeps{}
		clear(l.hunt.troubles)
	}
	if l.hunt.sweeps.due(time.Now()) {
		wide = slices.Concat(wellKnown[:], unusual(l.hunt.sweeps.count))
	}
	return wide
}

// whyLost sums up why nothing reached the coordinator; err is what there was with
// its name.
func (l *link) whyLost(c Coordinator, err error) error {
	if err != nil && len(l.hunt.troubles) == 0 {
		return err
	}
	sum := l.hunt.troubles.sum(c.Addr, l.a.cfg.Host.NoFakeTCP)
	if err != nil {
		return fmt.Errorf("%w; %w", err, sum)
	}
	return sum
}

// newPlan is an empty one, for what this agent is able to do.
func (l *link) newPlan(c Coordinator) *plan {
	p := &plan{c: c, first: l.a.cfg.Ports, tls: l.a.cfg.Dialers.ConnectTLS != nil, faked: l.a.cfg.Host.FakeTCP != nil}
	if n, ok := l.a.cfg.State.Worked(l.hunt.in); ok && (n.Over != proto.Transport_TRANSPORT_TLS || p.tls) && (n.Over != proto.Transport_TRANSPORT_FAKE_TCP || p.faked) {
		p.worked = n
	}
	return p
}

// reachable leaves out the addresses that no socket of ours can reach.
func (l *link) reachable(addrs []netip.AddrPort) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(addrs), func(addr netip.AddrPort) bool {
		e := l.a.mainFor(addr)
		return e == nil || !l.a.hasFamily(e.is4()) && !addr.Addr().IsLoopback()
	})
}

// resolution is what came of looking up the coordinator's name.
type resolution struct {
	addrs []netip.AddrPort
	err   error
}

// outcome is what came of one attempt.
type outcome struct {
	attempt
	won *reached
	err error
}

// race runs attempts side by side until one succeeds. Each begins at its time,
// or as soon as an earlier one has failed (RFC 8305 section 5).
type race struct {
	cert    tls.Certificate
	try     func(ctx context.Context, t attempt, cert tls.Certificate) (*reached, error)
	lost    func(t attempt, err error)
	began   time.Time
	skipped time.Duration // of the time that attempts were to wait
	waiting []attempt
	running int
	results chan outcome
}

// run returns the first that succeeds, or nil. more brings attempts that were
// not known when the race began, or is nil. None is left behind.
func (r *race) run(ctx context.Context, more <-chan resolution, plans func(resolution) []attempt) *reached {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		next := r.start(ctx)
		if r.running == 0 && len(r.waiting) == 0 && more == nil {
			return nil
		}
		timer := time.NewTimer(next)
		select {
		case <-timer.C:
		case <-ctx.Done():
			r.end(cancel)
			return nil
		case found := <-more:
			more = nil
			r.merge(plans(found))
		case o := <-r.results:
			r.running--
			if o.won != nil {
				r.end(cancel)
				return o.won
			}
			r.lost(o.attempt, o.err)
			r.hurry()
		}
		timer.Stop()
	}
}

// start begins what is due and says how long nothing else will be.
func (r *race) start(ctx context.Context) (next time.Duration) {
	elapsed := time.Since(r.began) + r.skipped
	for len(r.waiting) > 0 && r.running < maxAtOnce && r.waiting[0].after <= elapsed {
		t := r.waiting[0]
		r.waiting = r.waiting[1:]
		r.running++
		go func() {
			won, err := r.try(ctx, t, r.cert)
			r.results <- outcome{t, won, err}
		}()
	}
	if len(r.waiting) == 0 || r.running >= maxAtOnce {
		return time.Hour // a result comes before
	}
	return r.waiting[0].after - elapsed
}

// hurry makes the next attempt due now.
func (r *race) hurry() {
	if len(r.waiting) > 0 {
		r.skipped += max(0, r.waiting[0].after-time.Since(r.began)-r.skipped)
	}
}

// merge puts attempts in whose times count from now.
func (r *race) merge(list []attempt) {
	elapsed := time.Since(r.began) + r.skipped
	p := plan{list: r.waiting}
	for _, t := range list {
		t.after += elapsed
		p.add(t)
	}
	r.waiting = p.sorted()
}

// end stops all that still run, and closes those that were a moment too late.
func (r *race) end(cancel context.CancelFunc) {
	cancel()
	for ; r.running > 0; r.running-- {
		if o := <-r.results; o.won != nil {
			_ = o.won.Close()
		}
	}
}

func (a *Agent) mainFor(addr netip.AddrPort) *endpoint {
	for _, e := range a.mains {
		if e.is4() == addr.Addr().Unmap().Is4() {
			return e
		}
	}
	return nil
}
