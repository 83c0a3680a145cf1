// Package stream carries TCP connections between two ends as resumable streams
// of bytes over carriers that may be replaced: QUIC, or yamux in whatever is
// reliable. A connection outlives its carrier; when that ends, or a better one
// is there, it goes on over the next one where it was, with no byte lost and
// none twice. SPEC.md's section "TCP services" is normative.
package stream

import (
	"cmp"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/path"
)

// Config is what a Conns is made of.
type Config struct {
	// Instance is of this run of the program: random, never 0. With a number
	// it names each connection that is opened here.
	Instance uint64
	// Accept dials the service that the other side asks for; nil refuses all.
	// Its error is told to the other side; a *RefusedError may carry a rule.
	Accept func(ctx context.Context, r Request) (net.Conn, error)
	// Need is called when a connection under the rule wants a carrier and
	// there is none. It must not wait. It is called again with each connection
	// and each loss; nil does nothing.
	Need func(only path.Kinds)
	// Narrowed is told of a connection that is tried again under the rule of the
	// service, which the next ones may begin with. nil does nothing.
	Narrowed func(r Request)
	// NoCarrier is how long a connection waits for a carrier; 0 is 60 s.
	NoCarrier time.Duration
	// Idle is how long nothing may cross a connection; 0 is for ever, since
	// the ends of TCP connections look after themselves.
	Idle   time.Duration
	Limits Limits
}

// Limits bound a Conns. Zero values are the defaults.
type Limits struct {
	Connections int    // at once, both ways; 4096
	Dialing     int    // that Accept may work on at once; 128
	Window      uint64 // bytes on their way in one direction of a connection; 16 MiB
	Memory      uint64 // bytes that all together may hold in each direction, beyond 128 KiB for each connection; 256 MiB
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Connections: cmp.Or(l.Connections, 4096),
		Dialing:     cmp.Or(l.Dialing, 128),
		Window:      max(cmp.Or(l.Window, 16<<20), firstWindow),
		Memory:      cmp.Or(l.Memory, 256<<20),
	}
}

// Conns are the connections with one peer. Its methods are safe for concurrent
// use.
type Conns struct {
	cfg    Config
	limits Limits
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	windows  atomic.Int64 // bytes, of all connections
	retained atomic.Int64
	dialing  chan struct{}
	counts   counts
	heard    atomic.Uint64 // reads that brought something of the other side

	mu      sync.Mutex
	conns   map[name]*conn
	links   map[*link]struct{}
	current map[path.Kinds]*link
	changed chan struct{} // closed when current changes
	closed  bool
}

type counts struct {
	opened, accepted, resumed, refused, broken, malformed atomic.Uint64
	sent, received                                        atomic.Uint64
}

// Status is what a Conns does and has done.
type Status struct {
	Connections int    `json:"connections"` // now
	Waiting     int    `json:"waiting"`     // of them without a carrier
	Carriers    int    `json:"carriers"`
	Opened      uint64 `json:"opened"`
	Accepted    uint64 `json:"accepted"`
	Resumed     uint64 `json:"resumed"` // times that a connection moved to another stream
	Refused     uint64 `json:"refused"`
	Broken      uint64 `json:"broken"`
	Malformed   uint64 `json:"malformed"` // connections broken for what the peer sent
	TxBytes     uint64 `json:"tx_bytes"`
	RxBytes     uint64 `json:"rx_bytes"`
}

// ids number connections; one count for the process, so that a name tells
// connections of one program apart, whichever Conns opened them.
var ids atomic.Uint64

// New makes a Conns without a carrier. Close ends it.
func New(cfg Config) *Conns {
	cfg.NoCarrier = cmp.Or(cfg.NoCarrier, time.Minute)
	o := &Conns{
		cfg:     cfg,
		limits:  cfg.Limits.withDefaults(),
		conns:   make(map[name]*conn),
		links:   make(map[*link]struct{}),
		current: make(map[path.Kinds]*link),
		changed: make(chan struct{}),
	}
	o.dialing = make(chan struct{}, o.limits.Dialing)
	o.ctx, o.cancel = context.WithCancel(context.Background())
	return o
}

// Carry opens a connection to the service that r names on the other side and
// carries what crosses between it and client, which it owns from now on. It
// returns when both directions have ended; an error says why the connection
// broke, and the client has been reset then. The end of ctx breaks it too.
func (o *Conns) Carry(ctx context.Context, client net.Conn, r Request) error {
	c := o.newConn(name{o.cfg.Instance, ids.Add(1)}, r)
	c.local = newLocal(client)
	c.dialing = &dialing{again: make(chan struct{}, 1)}
	if _, err := o.add(c, true); err != nil {
		o.counts.refused.Add(1)
		c.local.reset()
		return err
	}
	o.counts.opened.Add(1)
	c.mu.Lock()
	c.wait(o.cfg.NoCarrier)
	c.watchIdle()
	c.mu.Unlock()
	o.tasks.Go(c.keep)
	stop := context.AfterFunc(ctx, func() { c.fail(context.Cause(ctx), true) })
	defer stop()
	c.pump()
	<-c.over
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.why
}

// add puts a connection in the table, where it may be new; or it returns the
// one that is there under the name.
func (o *Conns) add(c *conn, mayBeNew bool) (known *conn, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known = o.conns[c.name]
	switch {
	case o.closed:
		return nil, ErrClosed
	case known != nil:
		return known, nil
	case !mayBeNew:
		return nil, errUnknown
	case len(o.conns) >= o.limits.Connections:
		return nil, &RefusedError{Reason: "there are too many connections with this peer at once"}
	}
	o.conns[c.name] = c
	o.windows.Add(int64(c.in.window))
	return nil, nil
}

// Heard is another number whenever something has come from the other side.
func (o *Conns) Heard() uint64 { return o.heard.Load() }

// GiveUp breaks the connections that were opened here and that the other side
// has not answered yet: nobody is there to do so. What was answered goes on
// waiting for a carrier.
func (o *Conns) GiveUp(why error) {
	o.mu.Lock()
	all := make([]*conn, 0, len(o.conns))
	for _, c := range o.conns {
		all = append(all, c)
	}
	o.mu.Unlock()
	for _, c := range all {
		c.mu.Lock()
		vain := c.dialing != nil && !c.dialing.known
		c.mu.Unlock()
		if vain {
			c.fail(why, true)
		}
	}
}

func (o *Conns) remove(c *conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.conns[c.name] == c {
		delete(o.conns, c.name)
	}
}

// grant asks for n more bytes of window.
func (o *Conns) grant(n uint64) bool {
	if o.windows.Add(int64(n)) > int64(o.limits.Memory) {
		o.windows.Add(-int64(n))
		return false
	}
	return true
}

// retain is how many bytes one connection may hold of what is not
// acknowledged.
func (o *Conns) retain() int {
	if o.retained.Load() > int64(o.limits.Memory) {
		return firstWindow
	}
	return int(o.limits.Window) + largeBlock
}

func (o *Conns) need(only path.Kinds) {
	if o.cfg.Need == nil {
		return
	}
	if l, _ := o.link(only); l == nil {
		o.cfg.Need(only)
	}
}

// Status looks at all connections.
func (o *Conns) Status() Status {
	o.mu.Lock()
	all := make([]*conn, 0, len(o.conns))
	for _, c := range o.conns {
		all = append(all, c)
	}
	s := Status{Carriers: len(o.links)}
	o.mu.Unlock()
	for _, c := range all {
		c.mu.Lock()
		if c.state == running {
			s.Connections++
			if c.current == nil {
				s.Waiting++
			}
		}
		c.mu.Unlock()
	}
	n := &o.counts
	s.Opened, s.Accepted, s.Resumed = n.opened.Load(), n.accepted.Load(), n.resumed.Load()
	s.Refused, s.Broken, s.Malformed = n.refused.Load(), n.broken.Load(), n.malformed.Load()
	s.TxBytes, s.RxBytes = n.sent.Load(), n.received.Load()
	return s
}

// closeWithin is how long Close lets connections tell the other side.
const closeWithin = 500 * time.Millisecond

// Close breaks all connections and closes the carriers. It returns when nothing
// of theirs runs any more.
func (o *Conns) Close() {
	o.mu.Lock()
	o.closed = true
	all := make([]*conn, 0, len(o.conns))
	for _, c := range o.conns {
		all = append(all, c)
	}
	o.mu.Unlock()
	for _, c := range all {
		c.fail(ErrClosed, true)
	}
	limit := time.NewTimer(closeWithin)
	defer limit.Stop()
	for i, c := range all {
		select {
		case <-c.gone:
			continue
		case <-limit.C:
		}
		for _, c := range all[i:] {
			c.forget()
		}
		break
	}
	o.cancel()
	o.closeLinks()
	o.tasks.Wait()
}
