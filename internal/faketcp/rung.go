package faketcp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// The numbers of a climb.
const (
	// ta is the wait between the first SYNs to two candidates (RFC 8445 section
	// 14.2 allows 5 ms).
	ta = 5 * time.Millisecond
	// trips is how many round trips a handshake may take, and what follows it
	// again; never less than leastPatience.
	trips = 8
	// linger is how long the others may go on after the first success.
	linger = 20 * time.Millisecond
)

// Rung is hole punching with TCP segments, prepared for one introduction: both
// agents send SYNs to each other's candidates at the same instant, and repeat
// them, at once where a router answers with RST, until both NATs let them
// through. A Conn must be read by its owner meanwhile.
type Rung struct {
	Conns         []dgram.Opener   // ours, one a family
	Candidates    []netip.AddrPort // the peer's, best first, signed by it
	SharedOutside bool             // both agents are seen at one address: private candidates are allowed
	// Single gives each conn of ours one of the candidates behind the peer's NAT
	// (path.Turn).
	Single bool
	FireAt time.Time
	RTT    time.Duration // to the peer, an estimate; 0 unknown
	// PrimeTTL is the hop limit of a SYN sent ahead of FireAt, which opens our
	// NAT and dies before it draws a RST from the peer's; 0 sends none.
	PrimeTTL int
	// Aim is further addresses of the peer's NAT, of which one may lead to it:
	// each gets a SYN in every round, so that the peer's passes our NAT there.
	Aim Aim
	// Found, if not nil, is closed when a path was found otherwise.
	Found <-chan struct{}
}

// Aim is what a rung sends to ports that are foreseen.
type Aim struct {
	At     []netip.AddrPort
	Rounds []time.Duration                // from the instant to fire
	Pace   func(ctx context.Context) bool // waits for room for one more SYN
}

// What a *Conn can besides opening; a conn in memory may lack it.
type (
	primer interface {
		Prime(netip.AddrPort, int) error
	}
	patient interface {
		OpenRTT(context.Context, netip.AddrPort, time.Duration) error
	}
	checker interface {
		Check(context.Context, netip.AddrPort) (Verdict, error)
	}
)

// Kind is direct-faketcp.
func (r *Rung) Kind() path.Kind { return path.DirectFakeTCP }

// pair is one of our conns and a candidate.
type pair struct {
	conn dgram.Opener
	to   netip.AddrPort
}

// outcome is what a pair came to.
type outcome struct {
	pair
	stage string // how far it came
	err   error
}

// Climb opens all candidates side by side, checks what the boxes on the way do
// to segments, and tries the paths. It returns at the first that works, and
// ends with ctx. The error is a *path.Failure with the reason "no-candidates",
// "no-answer", "refused", "rst-flood" or "split-tcp".
func (r *Rung) Climb(ctx context.Context, try path.Try) error {
	allowed, refused := path.Permitted(r.Candidates, r.SharedOutside, path.DefaultBudget)
	pairs := r.pairs(allowed)
	if len(pairs) == 0 {
		return noCandidates(refused)
	}
	for _, p := range pairs {
		r.prime(p)
	}
	if !path.Wait(ctx, time.Until(r.FireAt)) {
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go r.shoot(ctx)
	results := make(chan outcome, len(pairs))
	for i, p := range pairs {
		go func() {
			o := outcome{pair: p, stage: "open"}
			if path.Wait(ctx, time.Duration(i)*ta) {
				o.stage, o.err = r.climb(ctx, p, try)
			} else {
				o.err = ctx.Err()
			}
			results <- o
		}()
	}
	return r.gather(ctx, results, len(pairs))
}

func (r *Rung) gather(ctx context.Context, results <-chan outcome, n int) error {
	var lost []outcome
	for range n {
		var o outcome
		select {
		case o = <-results:
		case <-r.Found:
			return &path.Failure{Reason: "not-needed", Evidence: "a path was found otherwise", Skipped: true}
		}
		if o.err != nil {
			lost = append(lost, o)
			continue
		}
		timer := time.NewTimer(linger)
		defer timer.Stop()
		for range n - len(lost) - 1 {
			select {
			case <-results:
			case <-timer.C:
				return nil
			}
		}
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return explain(lost)
}

func (r *Rung) pairs(allowed []netip.AddrPort) (pairs []pair) {
	for _, to := range allowed {
		i := 0
		for _, c := range r.Conns {
			if c.LocalAddr().Addr().Unmap().Is4() != to.Addr().Is4() {
				continue
			}
			if !r.Single || path.Turn(i, to, allowed) {
				pairs = append(pairs, pair{c, to})
			}
			i++
		}
	}
	return pairs
}

// shoot sends SYNs to what is foreseen, from the first conn.
func (r *Rung) shoot(ctx context.Context) {
	for _, after := range r.Aim.Rounds {
		if len(r.Aim.At) == 0 || !path.Wait(ctx, time.Until(r.FireAt.Add(after))) {
			return
		}
		for _, to := range r.Aim.At {
			c, ok := r.four().(primer)
			if !ok || !r.Aim.Pace(ctx) {
				return
			}
			_ = c.Prime(to, 0) // what the kernel refuses once may pass in the next round
		}
	}
}

// four is the first conn of IPv4, nil where there is none.
func (r *Rung) four() dgram.Opener {
	for _, c := range r.Conns {
		if c.LocalAddr().Addr().Unmap().Is4() {
			return c
		}
	}
	return nil
}

func (r *Rung) prime(p pair) {
	if c, ok := p.conn.(primer); ok && r.PrimeTTL > 0 && !path.Private(p.to.Addr()) {
		_ = c.Prime(p.to, r.PrimeTTL) // it may die of anything: the SYNs follow
	}
}

// patience bounds each stage.
func (r *Rung) patience() time.Duration { return max(leastPatience, trips*r.RTT) }

// climb brings one pair as far as it goes.
func (r *Rung) climb(ctx context.Context, p pair, try path.Try) (stage string, err error) {
	open, cancel := context.WithTimeout(ctx, r.patience())
	defer cancel()
	if c, ok := p.conn.(patient); ok {
		err = c.OpenRTT(open, p.to, r.RTT)
	} else {
		err = p.conn.Open(open, p.to)
	}
	if err != nil {
		return "open", err
	}
	if c, ok := p.conn.(checker); ok {
		verdict, err := c.Check(ctx, p.to)
		if err != nil {
			return "check", err
		}
		if f := verdict.failure(p.to); f != nil {
			return "split", f
		}
	}
	tried, cancelTry := context.WithTimeout(ctx, r.patience())
	defer cancelTry()
	_, err = try(tried, path.Path{Conn: p.conn, Addr: p.to}, path.DirectFakeTCP)
	return "try", err
}

func noCandidates(refused []string) error {
	f := &path.Failure{Reason: "no-candidates", Evidence: "the peer offered no address for fake TCP that this host can send to",
		Advice: "check with `agent doctor` on the peer that fake TCP works there"}
	if len(refused) > 0 {
		f.Evidence = "none of the peer's addresses may be sent to: " + strings.Join(refused, ", ")
	}
	return f
}

// explain makes one failure of all: the one that says most.
func explain(lost []outcome) error {
	var texts []string
	refused, held, heard := false, false, false
	for _, o := range lost {
		var f *path.Failure
		if errors.As(o.err, &f) && o.stage == "split" {
			return f
		}
		var e *openError
		if errors.As(o.err, &e) {
			refused, held = refused || e.refused > 0, held || e.held
			heard = heard || e.heard
		}
		if o.stage != "open" {
			heard = true
		}
		if e != nil && errors.Is(e.err, context.DeadlineExceeded) {
			texts = append(texts, e.told())
			continue
		}
		texts = append(texts, fmt.Sprintf("%v: %v", o.to, o.err))
	}
	f := &path.Failure{Reason: "no-answer", Evidence: strings.Join(texts, "; "),
		Advice: "if a firewall of yours drops incoming TCP that answers outgoing TCP, allow it; otherwise the relay has to do"}
	switch {
	case heard:
	case held:
		return path.FloodOfRefusals(f.Evidence)
	case refused:
		f.Reason = "refused"
		f.Advice = "a router before the peer answers every SYN with RST and none got through; the peer must send at the same time, so check that both clocks of the attempt agree (`agent explain`)"
	}
	return f
}
