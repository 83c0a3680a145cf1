// Package punch is the rung of UDP hole punching (RFC 5128 section 3.3): both
// agents probe each other's candidates at the same instant, so that each NAT
// sees its own host speak first.
package punch

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// Rung is a punch prepared for one introduction.
type Rung struct {
	Conns         []dgram.Conn     // ours, one a family
	Candidates    []netip.AddrPort // the peer's, best first, signed by it
	More          <-chan []netip.AddrPort
	Found         <-chan struct{} // closed when the session has a direct path, however it came by it
	SharedOutside bool
	FireAt        time.Time
	// Reversal is how long the peer alone sends from FireAt on, until Found: we
	// are reached as we are (RFC 5128 section 3.2). 0: both fire at once.
	Reversal time.Duration
	RTT      time.Duration // to the peer, an estimate
	Plan     Plan
	// Context explains a failure that the NATs' behaviours explain.
	Context func() *path.Failure
	Gunnery
}

// Kind is direct-udp.
func (r *Rung) Kind() path.Kind { return path.DirectUDP }

// outcome is what one candidate pair came to.
type outcome struct {
	rtt time.Duration
	err error
}

// Climb punches until a path works or RoundTrips have passed without answer.
func (r *Rung) Climb(ctx context.Context, try path.Try) error {
	allowed, refused := path.Permitted(r.Candidates, r.SharedOutside, path.DefaultBudget)
	if len(allowed) == 0 && r.More == nil {
		return &path.Failure{Reason: "no-candidates", Evidence: noCandidates(refused),
			Advice: "check with `agent netcheck` on the peer that UDP passes there"}
	}
	if r.Reversal > 0 && r.reversed(ctx) {
		return nil
	}
	for _, c := range allowed {
		r.prime(c, allowed)
	}
	all, cancel := context.WithDeadline(ctx, r.FireAt.Add(r.Reversal+r.patience(r.Plan.Least)))
	var cut *path.Failure
	shot := make(chan struct{})
	go func() {
		defer close(shot)
		cut = r.shoot(all, path.Translated(allowed))
	}()
	defer func() {
		cancel()
		<-shot
	}()
	if !path.Wait(all, time.Until(r.FireAt)) {
		return ctx.Err()
	}
	patience := r.patience(DefaultPlan().Least)
	few, stop := context.WithTimeout(all, patience)
	defer stop()
	c := &climb{rung: r, try: try, ctx: few, results: make(chan outcome), seen: make(map[netip.AddrPort]bool)}
	if c.run(allowed) || r.Plan.shoots() && r.hit(all) {
		return nil
	}
	cancel()
	<-shot
	return r.explain(c, refused, cut)
}

// reversed says whether the peer has come in while we sent nothing.
func (r *Rung) reversed(ctx context.Context) bool {
	ctx, cancel := context.WithDeadline(ctx, r.FireAt.Add(r.Reversal))
	defer cancel()
	return r.hit(ctx)
}

// patience is how long after the instant to fire an answer may come.
func (r *Rung) patience(least time.Duration) time.Duration {
	return max(least, time.Duration(r.Plan.RoundTrips)*r.RTT)
}

// hit waits for what shots of either side bring about.
func (r *Rung) hit(ctx context.Context) bool {
	select {
	case <-r.Found:
		return true
	case <-ctx.Done():
		return false
	}
}

// prime sends the low-TTL datagram. It may die of anything: the probes follow.
func (r *Rung) prime(to netip.AddrPort, among []netip.AddrPort) {
	if path.Private(to.Addr()) || r.Plan.PrimeTTL == 0 {
		return // no NAT lies between, and few hops; or the peer speaks first
	}
	for i, conn := range r.Conns {
		if r.suits(i, conn, to, among) {
			r.primeFrom(conn, to)
		}
	}
}

// primeFrom primes one address from one socket.
func (r *Rung) primeFrom(conn dgram.Conn, to netip.AddrPort) {
	ttl := r.Plan.PrimeTTL
	if n := r.Plan.PrimeRouters; n > 0 {
		if w, ok := conn.(dgram.RoutersWriter); ok && to.Addr().Unmap().Is4() {
			_ = w.WriteRouters(dgram.One(to, proto.Prime()), n)
			return
		}
		ttl = n + 1 // the next best: where it ends at a router on the way it is as good
	}
	if w, ok := conn.(dgram.TTLWriter); ok {
		_ = w.WriteTTL(dgram.One(to, proto.Prime()), ttl)
	}
}

// suits says whether a socket of ours, the i-th, probes a candidate of the peer.
func (r *Rung) suits(i int, conn dgram.Conn, to netip.AddrPort, among []netip.AddrPort) bool {
	if !sameFamily(conn, to) {
		return false
	}
	role := r.Plan.Role
	if role.Single && role.Window > 0 && to.Addr().Unmap().Is4() && !path.Private(to.Addr()) {
		return false // its one destination is a port that is foreseen
	}
	return !role.Single || path.Turn(i, to, among)
}

func sameFamily(conn dgram.Conn, to netip.AddrPort) bool {
	return conn.LocalAddr().Addr().Unmap().Is4() == to.Addr().Unmap().Is4()
}

// climb is the state of one Climb.
type climb struct {
	rung    *Rung
	try     path.Try
	ctx     context.Context
	results chan outcome
	seen    map[netip.AddrPort]bool
	running int
}

// run probes the candidates, and those that come later, until the first
// success; then the others have one round trip more to be better.
func (c *climb) run(candidates []netip.AddrPort) bool {
	c.start(candidates)
	more, over := c.rung.More, c.ctx.Done()
	for c.running > 0 || more != nil {
		select {
		case o := <-c.results:
			c.running--
			if o.err == nil {
				c.drain(max(o.rtt, 20*time.Millisecond))
				return true
			}
		case <-c.rung.Found:
			c.drain(20 * time.Millisecond)
			return true
		case list, ok := <-more:
			if !ok {
				more = nil
				continue
			}
			c.late(list)
		case <-over:
			more, over = nil, nil // the candidates still under way end by themselves
		}
	}
	return false
}

// late takes candidates that the answer brought and the standing ones lacked.
func (c *climb) late(list []netip.AddrPort) {
	allowed, _ := path.Permitted(list, c.rung.SharedOutside, path.DefaultBudget)
	for _, a := range allowed {
		if !c.seen[a] {
			c.rung.prime(a, allowed)
		}
	}
	c.start(allowed)
}

func (c *climb) start(candidates []netip.AddrPort) {
	for _, a := range candidates {
		if c.seen[a] {
			continue
		}
		c.seen[a] = true
		for i, conn := range c.rung.Conns {
			if !c.rung.suits(i, conn, a, candidates) {
				continue
			}
			delay := time.Duration(c.running) * c.rung.Plan.Pace
			c.running++
			go c.probe(path.Path{Conn: conn, Addr: a}, delay)
		}
	}
}

func (c *climb) probe(p path.Path, delay time.Duration) {
	var o outcome
	if path.Wait(c.ctx, delay) {
		o.rtt, o.err = c.try(c.ctx, p, path.DirectUDP)
	} else {
		o.err = c.ctx.Err()
	}
	c.results <- o
}

// drain waits for the candidates still under way, for d at most.
func (c *climb) drain(d time.Duration) {
	ctx, cancel := context.WithTimeout(c.ctx, d)
	defer cancel()
	for c.running > 0 {
		select {
		case <-c.results:
			c.running--
		case <-ctx.Done():
			go func(n int) {
				for range n {
					<-c.results
				}
			}(c.running)
			return
		}
	}
}

// explain says why there is no path; cut is what kept the plan from being carried
// out, nil where nothing did.
func (r *Rung) explain(c *climb, refused []string, cut *path.Failure) error {
	var context *path.Failure
	if r.Context != nil {
		context = r.Context()
	}
	switch {
	case cut != nil && context != nil:
		cut.Evidence += "; " + context.Evidence
		return cut
	case cut != nil:
		return cut
	case context != nil:
		return context
	}
	var tried []string
	for a := range c.seen {
		tried = append(tried, a.String())
	}
	f := &path.Failure{
		Reason:   "no-answer",
		Evidence: fmt.Sprintf("probed %s for %v from the instant that both sides fired; nothing came back", strings.Join(tried, ", "), r.patience(r.Plan.Least)),
		Advice: "let firewalls pass incoming UDP that answers outgoing UDP, and routers drop incoming UDP to themselves that nobody asked for " +
			"(one that accepts it takes an early probe for its own, and then sends ours from another port); otherwise what looks like TCP, TCP or the relay has to do",
	}
	if len(tried) == 0 {
		f.Reason, f.Evidence = "no-candidates", noCandidates(refused)
	}
	return f
}

func noCandidates(refused []string) string {
	if len(refused) == 0 {
		return "the peer offered no address that this host can send to"
	}
	return "none of the peer's addresses may be probed: " + strings.Join(refused, ", ")
}
