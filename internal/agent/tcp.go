package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/path"
	"rendezvous/internal/quicflow"
	"rendezvous/internal/stream"
	"rendezvous/proto"
)

// connections are the TCP connections with one peer: those of clients here to
// its services, and of its clients to services here. Each agent makes the
// carriers of the connections that its own clients opened, so the two need not
// agree on who does.
type connections struct {
	p       *peer
	out, in *stream.Conns
	end     atomic.Pointer[quicflow.End] // nil before its first use
	unsent  atomic.Uint64                // datagrams of QUIC's that found no path
	lines   lines
	splices splices

	mu     sync.Mutex
	closed bool
	used   time.Time                  // when connections of our clients were last seen
	links  map[path.Kinds]carrierLink // the carriers of out, as they were made
	making map[path.Kinds]*making
	dials  []*tcpDial
}

// making is a carrier on its way, for all who wait for it.
type making struct {
	done chan struct{}
	err  error
}

func newConnections(p *peer) *connections {
	c := &connections{p: p, links: make(map[path.Kinds]carrierLink), making: make(map[path.Kinds]*making)}
	c.lines.of, c.splices.of = c, c
	limits := stream.Limits{Connections: p.a.cfg.Flows.Max}
	c.out = stream.New(stream.Config{Instance: p.a.instance, Need: c.need, Narrowed: c.narrowed, Limits: limits})
	c.in = stream.New(stream.Config{Instance: p.a.instance, Accept: c.connect, Limits: limits})
	return c
}

// live is how many connections there are, and outgoing how many our clients
// opened.
func (c *connections) live() int { return c.in.Status().Connections + c.outgoing() }

func (c *connections) outgoing() int { return c.out.Status().Connections }

// connect makes a connection of the peer's clients to a service here
// (stream.Config).
func (c *connections) connect(ctx context.Context, r stream.Request) (net.Conn, error) {
	conn, err := c.p.a.connector.Connect(ctx, r.Service, forward.Caller{
		Client: forward.Client{Peer: c.p.name}, Only: r.Only, From: r.Client, To: r.Listen,
	})
	var rule *forward.RuleError
	if errors.As(err, &rule) {
		return nil, &stream.RefusedError{Reason: err.Error(), Only: rule.Only}
	}
	if err != nil {
		c.p.a.cfg.Log.Debug().Str("peer", c.p.name).Err(err).Msg("a connection of the peer's is refused")
	}
	return conn, err
}

// deliver takes a burst of the peer's QUIC packets. It runs on a reader's
// goroutine.
func (c *connections) deliver(b dgram.Burst) {
	end, err := c.open()
	if err != nil {
		c.p.a.refusals.note(c.p.a, "TCP services", err)
		return
	}
	end.Deliver(b)
}

// open gives our end of the peer's QUIC connections.
func (c *connections) open() (*quicflow.End, error) {
	if end := c.end.Load(); end != nil {
		return end, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if end := c.end.Load(); end != nil {
		return end, nil
	}
	if c.closed {
		return nil, stream.ErrClosed
	}
	cert, err := c.p.a.id.Certificate()
	if err != nil {
		return nil, err
	}
	key, err := c.p.a.resetKey()
	if err != nil {
		return nil, err
	}
	end, err := quicflow.New(quicflow.Config{
		Send: c.send, Room: c.room, Accept: c.accept, Certificate: cert, ResetKey: key, QUIC: stream.QUICConfig,
		PeerKey: func() ed25519.PublicKey { return c.p.member().Key },
	})
	if err != nil {
		return nil, err
	}
	c.end.Store(end)
	return end, nil
}

// resetKey is the same for every run of this agent.
func (a *Agent) resetKey() (key quic.StatelessResetKey, err error) {
	secret, err := a.id.MarshalBinary()
	if err != nil {
		return key, err
	}
	b, err := hkdf.Key(sha256.New, secret, nil, "rendezvous QUIC stateless reset", len(key))
	copy(key[:], b)
	return key, err
}

// send carries QUIC's packets (quicflow.Config). They are not held for a
// session that is not there: QUIC sends again what matters.
func (c *connections) send(only path.Kinds, b dgram.Burst) {
	if as := c.p.association(); as != nil && as.Ready() && as.SendOver(only, proto.QUICFlow, b) {
		return
	}
	c.unsent.Add(uint64(b.Len()))
	if c.live() > 0 {
		c.p.want("dial")
	}
}

func (c *connections) room(only path.Kinds) int {
	if as := c.p.association(); as != nil {
		return as.Room(only)
	}
	return 0
}

// accept takes a carrier that the peer made for its clients (quicflow.Config).
func (c *connections) accept(only path.Kinds, conn *quic.Conn) {
	c.in.UseFor(only, stream.OverQUIC(conn))
}

// narrowed hears that a service wants a rule; the next connections to it begin
// with that (stream.Config).
func (c *connections) narrowed(r stream.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.dials {
		if both, ok := d.only.Narrow(r.Only); d.service == r.Service && ok && both == r.Only {
			d.told = r.Only
		}
	}
}

// need has a carrier made for connections that live and have none
// (stream.Config).
func (c *connections) need(only path.Kinds) {
	c.p.a.tasks.start(func(ctx context.Context) {
		for wait := retryFirst; !c.out.Has(only) && c.outgoing() > 0; wait = min(2*wait, carrierRetryMost) {
			if c.carrier(ctx, only) == nil || !path.Wait(ctx, wait) {
				return
			}
		}
	})
}

const (
	// carrierRetryMost is the longest wait between attempts to make a carrier
	// while connections have none.
	carrierRetryMost = 2 * time.Second
	// carrierWithin is how long one attempt may take: a few round trips on a
	// slow path. Its session's is apart.
	carrierWithin = 4 * time.Second
	// ruledWithin is how long a new client waits for a path of its rule's kinds.
	ruledWithin = 30 * time.Second
)

// carrier sees to it that connections under the rule have a carrier, and waits
// for it; the error says why it failed.
func (c *connections) carrier(ctx context.Context, only path.Kinds) error {
	if c.out.Has(only) {
		return nil
	}
	c.mu.Lock()
	m := c.making[only]
	if m == nil {
		m = &making{done: make(chan struct{})}
		c.making[only] = m
		c.p.a.tasks.start(func(ctx context.Context) {
			m.err = c.make(ctx, only)
			c.mu.Lock()
			delete(c.making, only)
			c.mu.Unlock()
			close(m.done)
		})
	}
	c.mu.Unlock()
	select {
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// make makes a carrier and has the connections use it.
func (c *connections) make(ctx context.Context, only path.Kinds) error {
	if _, err := c.p.session(ctx, "dial"); err != nil {
		return err
	}
	if link, carrier, err := c.lines.begin(only); err == nil {
		c.use(only, link, carrier)
		return nil
	}
	if c.has(only, false) && c.splices.wanted(time.Now(), c.p.association(), only) {
		link, carrier, err := c.splices.begin(ctx, only)
		if err == nil {
			c.use(only, link, carrier)
			return nil
		}
		c.p.a.cfg.Log.Debug().Str("peer", c.p.name).Err(err).Msg("no stream of bytes through the relay")
		if c.has(only, true) {
			return nil // what there is does
		}
	}
	end, err := c.open()
	if err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, carrierWithin)
	defer cancel()
	link, err := end.Dial(within, only)
	if err != nil {
		return c.whyNoCarrier(only, err)
	}
	c.use(only, quicLink{link, end, c}, stream.OverQUIC(link.Conn))
	return nil
}

// has says whether there is a carrier, one that fits its path if it must.
func (c *connections) has(only path.Kinds, fits bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	link := c.links[only]
	return link != nil && !link.ended() && (!fits || link.fits(time.Now()))
}

func (c *connections) use(only path.Kinds, link carrierLink, carrier stream.Carrier) {
	c.mu.Lock()
	c.links[only], c.used = link, time.Now()
	c.mu.Unlock()
	c.out.UseFor(only, carrier)
}

// carrierLink is what is known of a carrier below.
type carrierLink interface {
	ended() bool
	// fits says whether it is still the best for its rule.
	fits(now time.Time) bool
	close()
}

// quicLink is a QUIC connection over the session.
type quicLink struct {
	quicflow.Link
	end *quicflow.End
	of  *connections
}

func (l quicLink) ended() bool { return l.Context().Err() != nil }
func (l quicLink) close()      { _ = l.CloseWithError(0, "idle") }

// fits is false where the packets have become too large, or much smaller than they could be: their path is another, or better known; and where a line
// or a splice would do.
func (l quicLink) fits(now time.Time) bool {
	as := l.of.p.association()
	return l.end.Fits(l.Link) && !l.of.lines.wanted(now, as, l.Only()) && !l.of.splices.wanted(now, as, l.Only())
}

func (c *connections) whyNoCarrier(only path.Kinds, err error) error {
	as := c.p.association()
	var alert tls.AlertError
	switch {
	case as == nil || !as.Ready():
		return fmt.Errorf("no session with %q; `agent explain %s` says what was tried", c.p.name, c.p.name)
	case only != 0 && !as.Serves(only):
		return fmt.Errorf("no path of the kinds %v to %q works; `agent explain %s` says what was tried", only, c.p.name, c.p.name)
	case errors.As(err, &alert):
		return err
	}
	return fmt.Errorf("%q does not answer over QUIC: %w; is its agent of a version with TCP services?", c.p.name, err)
}

// idleCarrier is how long carriers are kept that no connection uses. They keep
// their path awake.
const idleCarrier = 30 * time.Second

// tend closes carriers that nobody uses, and replaces those that fit no more.
func (c *connections) tend(now time.Time) {
	used := c.outgoing() > 0
	c.mu.Lock()
	if used {
		c.used = now
	}
	idle := now.Sub(c.used) > idleCarrier
	var unfit []path.Kinds
	for only, l := range c.links {
		switch {
		case l.ended():
			delete(c.links, only)
		case idle && c.making[only] == nil:
			l.close()
		case used && c.making[only] == nil && !l.fits(now):
			unfit = append(unfit, only)
		}
	}
	c.mu.Unlock()
	for _, only := range unfit {
		c.p.a.tasks.start(func(ctx context.Context) {
			if err := c.make(ctx, only); err != nil {
				c.p.a.cfg.Log.Debug().Str("peer", c.p.name).Err(err).Msg("no better carrier")
			}
		})
	}
}

// drops adds what was dropped, by reason.
func (c *connections) drops(out map[string]uint64) {
	out["splice-refused"] += c.splices.refused.Load()
	out["line-malformed"] += c.lines.malformed.Load()
	out["quic-no-path"] += c.unsent.Load()
	if end := c.end.Load(); end != nil {
		malformed, full := end.Dropped()
		out["quic-malformed"] += malformed
		out["quic-full"] += full
	}
}

// close ends all connections.
func (c *connections) close() {
	c.mu.Lock()
	c.closed = true
	dials := c.dials
	c.dials = nil
	c.mu.Unlock()
	for _, d := range dials {
		d.close()
	}
	c.out.Close()
	c.in.Close()
	c.lines.close()
	c.splices.close()
	if end := c.end.Load(); end != nil {
		_ = end.Close()
	}
}
