package simopen

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// climb is the state of one Climb.
type climb struct {
	rung    *Rung
	try     path.Try
	allowed []netip.AddrPort
	won     chan struct{} // closed when the first connection is proven
	ended   chan struct{} // closed when connections that aren't proven must go
	proof   chan struct{} // told, without waiting, when a proof has ended
	pace    pace

	mu       sync.Mutex
	done     bool // won is closed
	count    counts
	proving  int // proofs under way
	accepted int // of them, from the listeners
	rsts     map[netip.Addr]*answers
}

// answers are those of one address, and how many of its ports are called.
type answers struct{ rsts, ports int }

// counts are what a failure is explained with.
type counts struct {
	tries       int // connects begun, each a SYN at least
	refused     int // answered by RST
	held        int // of these, so many from one address that a rest followed
	silent      int // not answered in time
	busy        int // the 4-tuple was still in use
	unreachable int // answered by ICMP, or no route
	connected   int // by us
	accepted    int // by our listener, from a candidate's address
	strangers   int // others that the listener turned away
	last        error
}

// mostUnproven bounds how many accepted connections may await their proof:
// whoever shares an address with the peer can make some.
const mostUnproven = 8

// mostUnprovenDials is how many connections to one candidate may come to
// nothing: somebody else answers there.
const mostUnprovenDials = 3

// The rest after an error that another try at once would only repeat. It is
// jittered, since two sides with one fixed gap can miss each other for ever.
const (
	shortRest = 30 * time.Millisecond
	longRest  = 200 * time.Millisecond
)

// How many refusals are answered at once, before every other one is answered
// off the beat; and the least range of that, for peers nearby.
const (
	atOnce       = 3
	leastOffbeat = 5 * time.Millisecond
)

func newClimb(r *Rung, try path.Try, allowed []netip.AddrPort) *climb {
	c := &climb{rung: r, try: try, allowed: allowed, won: make(chan struct{}), ended: make(chan struct{}), proof: make(chan struct{}, 1),
		rsts: make(map[netip.Addr]*answers)}
	c.pace.spacing = spacing
	if len(r.Aim) > 0 {
		c.pace.spacing = aimSpacing
	}
	return c
}

// run tries until one connection is proven or patience is over; then the others
// have a little longer.
func (c *climb) run(ctx context.Context, patience time.Duration) {
	defer close(c.ended)
	window, cancel := context.WithDeadline(ctx, c.rung.FireAt.Add(patience))
	defer cancel()
	if c.wait(window, time.Until(c.rung.FireAt)) {
		var dialling sync.WaitGroup
		dials, stop := context.WithCancel(window)
		all := c.rung.pairs(c.allowed)
		for _, p := range all {
			if c.rsts[p.remote.Addr()] == nil {
				c.rsts[p.remote.Addr()] = &answers{}
			}
			c.rsts[p.remote.Addr()].ports++
		}
		for _, p := range all {
			dialling.Go(func() { c.dial(dials, p) })
		}
		select {
		case <-c.won:
		case <-window.Done():
		}
		stop()
		c.drain(ctx)
		dialling.Wait()
		return
	}
	c.drain(ctx)
}

// wait is false when the climb is decided before d has passed.
func (c *climb) wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-c.won:
	case <-ctx.Done():
	}
	return false
}

// drain lets the proofs under way come to an end: for a moment once there is a
// winner, else as long as a proof may take.
func (c *climb) drain(ctx context.Context) {
	d := max(proof, 4*c.rung.rtt())
	if c.proven() {
		d = max(agree, 3*c.rung.rtt())
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	c.settle(ctx)
}

// settle waits until no proof is under way.
func (c *climb) settle(ctx context.Context) {
	for {
		c.mu.Lock()
		n := c.proving
		c.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-c.proof:
		case <-ctx.Done():
			return
		}
	}
}

// begin counts a proof, and end its end.
func (c *climb) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proving++
}

func (c *climb) end(accepted bool) {
	c.mu.Lock()
	c.proving--
	if accepted {
		c.accepted--
	}
	c.mu.Unlock()
	select {
	case c.proof <- struct{}{}:
	default:
	}
}

func (c *climb) proven() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.done
}

// note counts.
func (c *climb) note(f func(n *counts)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.count)
}

// dial connects to one candidate again and again. A RST is answered by the next
// SYN at once: a mapping that the peer's SYN can pass lives only until that RST
// is back, so any gap may be where the peer's SYN falls. But a gap of the time
// that RST and SYN need within our own network there always is, and two sides in
// one rhythm can meet in it each time: so some SYNs are late at random. An
// address that answers SYN after SYN so is called less and less often.
func (c *climb) dial(ctx context.Context, p pair) {
	unproven, refusals := 0, 0
	for c.pace.wait(ctx) {
		c.note(func(n *counts) { n.tries++ })
		patience := jitter(max(fresh, 5*c.rung.rtt()/2))
		once, cancel := context.WithTimeout(ctx, patience)
		conn, err := c.rung.Net.DialTCP(once, p.local, p.remote)
		cancel()
		if err == nil {
			c.note(func(n *counts) { n.connected++ })
			c.begin()
			unproven++
			proven := c.prove(conn, p.remote)
			c.end(false)
			if proven || unproven == mostUnprovenDials {
				return
			}
			err = syscall.EADDRNOTAVAIL // as what was closed will say for a while
		}
		rest := c.judge(err)
		if isRefusal(err) {
			refusals++
			rest = c.restAfterRST(p.remote.Addr(), refusals)
		}
		if rest > 0 && !path.Wait(ctx, jitter(rest)) {
			return
		}
	}
}

// restAfterRST is how long to rest after a RST, one of so many to one dial. What
// bounds a flood counts those of all candidates at the address.
func (c *climb) restAfterRST(from netip.Addr, refusals int) (rest time.Duration) {
	if refusals > atOnce && rand.N(2) == 0 {
		rest = rand.N(max(c.rung.rtt()/2, leastOffbeat))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	a := c.rsts[from]
	a.rsts++
	if calm := path.AfterRefusals(a.rsts, a.ports); calm > 0 {
		c.count.held++
		rest = max(rest, calm)
	}
	return rest
}

// judge counts an error and says how long to rest after it.
func (c *climb) judge(err error) time.Duration {
	var rest time.Duration
	c.note(func(n *counts) {
		switch {
		case errors.Is(err, context.Canceled):
		case isRefusal(err):
			n.refused++
		case errors.Is(err, context.DeadlineExceeded) || errors.Is(err, syscall.ETIMEDOUT):
			n.silent++
		case errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EADDRINUSE):
			n.busy++
			rest = shortRest
		default:
			n.unreachable++
			n.last = err
			rest = longRest
		}
	})
	return rest
}

// isRefusal says whether a RST answered.
func isRefusal(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}

// jitter is d, shorter or longer by up to a fifth.
func jitter(d time.Duration) time.Duration {
	return d*4/5 + rand.N(d*2/5+1)
}

// accept takes connections from the candidates' addresses. Their port is free:
// a NAT may show the peer by another than it told.
func (c *climb) accept(ctx context.Context, l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) || !path.Wait(ctx, shortRest) {
				return
			}
			continue
		}
		from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
		from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
		if err != nil || !c.admit(from) {
			_ = conn.Close()
			continue
		}
		go func() {
			defer c.end(true)
			c.prove(conn, from)
		}()
	}
}

// admit says whether a connection that came in may prove itself.
func (c *climb) admit(from netip.AddrPort) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := false
	for _, a := range c.allowed {
		known = known || a.Addr() == from.Addr()
	}
	if !known || c.accepted >= mostUnproven {
		c.count.strangers++
		return false
	}
	c.count.accepted++
	c.accepted++
	c.proving++
	return true
}

// prove has the peer prove itself on a new connection.
func (c *climb) prove(conn net.Conn, far netip.AddrPort) bool {
	s := dgram.NewStream(conn, far, dgram.StreamOptions{})
	c.rung.Attach(s, far)
	ctx, cancel := context.WithTimeout(context.Background(), max(proof, 4*c.rung.rtt()))
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	go func() {
		select {
		case <-s.Done():
		case <-c.ended:
		case <-over:
		}
		cancel()
	}()
	if _, err := c.try(ctx, path.Path{Conn: s, Addr: s.RemoteAddr()}, path.DirectTCP); err != nil {
		c.rung.Release(s)
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done {
		c.done = true
		close(c.won)
	}
	return true
}

// pace bounds the SYNs of all candidates together: a refusal from nearby comes
// back in no time. While two clocks may well differ by as much it is 1000/s;
// then no more than is polite, at random intervals.
type pace struct {
	spacing time.Duration
	mu      sync.Mutex
	begun   time.Time
	next    time.Time
}

const (
	spacing    = time.Millisecond
	aimSpacing = 2 * time.Millisecond // with ports that are foreseen besides
	inHurry    = 1500 * time.Millisecond
	laterSpace = 8 * time.Millisecond // on average
)

// wait is false when ctx ended.
func (p *pace) wait(ctx context.Context) bool {
	p.mu.Lock()
	now := time.Now()
	at := p.next
	if at.Before(now) {
		at = now
	}
	if p.begun.IsZero() {
		p.begun = now
	}
	p.next = at.Add(p.spacing)
	if at.Sub(p.begun) > inHurry {
		p.next = p.next.Add(rand.N(2 * (laterSpace - spacing)))
	}
	p.mu.Unlock()
	if d := at.Sub(now); d > 0 {
		return path.Wait(ctx, d)
	}
	return ctx.Err() == nil
}
