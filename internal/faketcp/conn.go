package faketcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// extra is how many bytes a TCP header is longer than UDP's.
const extra = 12

// ErrNotOpen is what a write to an address gives with which no handshake was
// made: Open to it first.
var ErrNotOpen = errors.New("no handshake was made with this address")

// Conn carries datagrams to and from any number of addresses on one port, each
// datagram as one TCP segment. Handshakes, ACKs and checks are made while
// somebody reads: an owner keeps a reader on it all the time.
type Conn struct {
	dev    device
	began  time.Time
	shared bool // the port is the kernel's too: no packed mode

	mu     sync.Mutex // guards what follows; nothing is sent or waited for under it
	table  *table
	checks map[uint64]*conversation // by nonce
	timer  *time.Timer              // runs sweep
	due    time.Time                // when the timer fires; zero: it doesn't
	closed bool

	done    chan struct{}
	heads   sync.Pool // *segment, as an interface's argument escapes
	reading reading
}

var (
	_ dgram.Opener  = (*Conn)(nil)
	_ dgram.Heavier = (*Conn)(nil)
)

func newConn(d device, o Options, shared bool) *Conn {
	c := &Conn{
		dev: d, began: time.Now().Add(-time.Second), shared: shared, // so that no time is 0, which means never
		table: newTable(o, d.local().Port()), checks: make(map[uint64]*conversation), done: make(chan struct{}),
	}
	c.heads.New = func() any { return new(segment) }
	c.reading.visit = c.visit
	return c
}

func (c *Conn) now() time.Duration { return time.Since(c.began) }

// key is how an address is looked up.
func key(a netip.AddrPort) netip.AddrPort {
	if a.Addr().Is4In6() {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return a
}

// LocalAddr is the address listened on, with its real port.
func (c *Conn) LocalAddr() netip.AddrPort { return c.dev.local() }

// SetReadDeadline is dgram.Conn's.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.dev.setReadDeadline(t) }

// Extra is 12 bytes, or 0 where packed mode is proven.
func (c *Conn) Extra(to netip.AddrPort) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.table.flows[key(to)]; f != nil && f.packed.proven() {
		return 0
	}
	return extra
}

// Counts are those until now.
func (c *Conn) Counts() Counts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.table.counts
}

// Flows is how many addresses there is state for.
func (c *Conn) Flows() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.table.flows)
}

// Close lets go of the port. Flows that we opened are ended with a FIN, so that
// the NATs on the way need not remember them for days.
func (c *Conn) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	c.closed = true
	if c.timer != nil {
		c.timer.Stop()
	}
	for _, f := range c.table.flows {
		if f.state == established && f.opener {
			c.table.send(f.segment(flagFIN|flagACK, c.table.window))
		}
		f.wake()
	}
	out := c.table.out
	c.table.out = nil
	clear(c.table.flows)
	c.mu.Unlock()
	close(c.done)
	for i := range out {
		_ = c.dev.send(&out[i].segment, dgram.Burst{}) // the peer forgets us in any case
	}
	return c.dev.close()
}

// Write is dgram.Conn's. During a handshake a few datagrams are held; without
// one it is ErrNotOpen. A datagram without a byte can't be carried: it is
// counted and lost.
func (c *Conn) Write(b dgram.Burst) error {
	if len(b.Buf) == 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.table.counts.Empty++
		return nil
	}
	s := c.heads.Get().(*segment)
	defer c.heads.Put(s)
	f, err := c.reserve(b, s)
	if err != nil || f == nil {
		return err
	}
	if s.flags&flagURG != 0 {
		return c.writePacked(f, b, s)
	}
	return c.dev.send(s, b)
}

// reserve makes b's header; a nil flow without error means that b is held.
// Flag URG says that it needs packed mode.
func (c *Conn) reserve(b dgram.Burst, s *segment) (*flow, error) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.table.flows[key(b.Addr)]
	switch {
	case c.closed:
		return nil, net.ErrClosed
	case f == nil || f.state != established && f.hs.waiters == 0:
		c.table.counts.NotOpen += uint64(b.Len())
		return nil, &dgram.Error{Op: "write", Local: c.dev.local(), Addr: b.Addr, Bytes: len(b.Buf), Err: ErrNotOpen}
	case f.state != established || f.held != nil || f.crossed && f.hs.waiters > 0:
		if f.held == nil {
			f.held = &held{since: now}
		}
		c.table.counts.Held += uint64(f.held.hold(b))
		return nil, nil
	case f.packed.proven() && b.Size > f.packed.plain:
		s.flags = flagURG
		return f, nil
	}
	c.table.write(now, f, b, s)
	c.wind(now, fastTick)
	return f, nil
}

// wind sees to it that sweep runs within d. Called under mu.
func (c *Conn) wind(now, d time.Duration) {
	at := c.began.Add(now + d)
	if c.closed || !c.due.IsZero() && !c.due.After(at) {
		return
	}
	c.due = at
	if c.timer == nil {
		c.timer = time.AfterFunc(d, c.sweep)
		return
	}
	c.timer.Reset(d)
}

func (c *Conn) sweep() {
	c.mu.Lock()
	now := c.now()
	c.due = time.Time{}
	if c.closed {
		c.mu.Unlock()
		return
	}
	if d := c.table.sweep(now); d > 0 {
		c.wind(now, d)
	}
	out := c.table.out
	c.table.out = nil // the reader's goes on with another
	c.mu.Unlock()
	c.deliver(out)
}

// deliver sends what a table wanted sent, and behind the end of a handshake the
// datagrams that waited for it.
func (c *Conn) deliver(out []outgoing) {
	for i := range out {
		o := &out[i]
		b := dgram.Burst{Addr: o.remote, Buf: o.body, Size: len(o.body)}
		if err := c.dev.send(&o.segment, b); err != nil {
			c.mu.Lock()
			c.table.counts.Unsent++
			c.mu.Unlock()
		}
		if o.flow != nil {
			c.release(o.flow)
		}
	}
}

// release sends what was held, in order, until nothing is held any more: only
// then do writes go their own way.
func (c *Conn) release(f *flow) {
	var s segment
	for first := true; ; first = false {
		c.mu.Lock()
		if f.held == nil || first && f.held.leaving {
			c.mu.Unlock()
			return
		}
		if len(f.held.bursts) == 0 || c.closed {
			f.held = nil
			c.mu.Unlock()
			return
		}
		f.held.leaving = true
		b := f.held.bursts[0]
		f.held.bursts = f.held.bursts[1:]
		f.held.bytes -= len(b.Buf)
		now := c.now()
		c.table.write(now, f, b, &s)
		c.wind(now, fastTick)
		c.mu.Unlock()
		_ = c.dev.send(&s, b) // too large, or no route: as lost as on the way
	}
}

// openError is a handshake that did not end.
type openError struct {
	to      netip.AddrPort
	took    time.Duration
	sent    int
	refused int  // RSTs
	held    bool // so many RSTs that the pace was lowered
	heard   bool
	err     error
}

func (e *openError) Error() string { return fmt.Sprintf("open fake TCP to %s: %v", e.told(), e.err) }

// told is what was seen, without why it ended.
func (e *openError) told() string {
	what := "nothing came back"
	switch {
	case e.heard:
		what = "the peer's SYN came, but no answer to ours"
	case e.refused > 0:
		what = fmt.Sprintf("%d were refused with RST", e.refused)
	}
	return fmt.Sprintf("%v: %d SYNs in %v, and %s", e.to, e.sent, e.took.Round(time.Millisecond), what)
}

func (e *openError) Unwrap() error { return e.err }

// Open is dgram.Opener's. It needs a reader on the Conn. It ends only with ctx
// or Close; SYNs are repeated every 20 ms at first, and at once where a RST
// answers one.
func (c *Conn) Open(ctx context.Context, to netip.AddrPort) error { return c.OpenRTT(ctx, to, 0) }

// OpenRTT is Open on a path whose round trip is about rtt: where that is long,
// the SYN is repeated less often.
func (c *Conn) OpenRTT(ctx context.Context, to netip.AddrPort, rtt time.Duration) error {
	to = key(to)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	if c.dev.local().Addr().Unmap().Is4() != to.Addr().Is4() {
		c.mu.Unlock()
		return fmt.Errorf("open fake TCP from %v to %v: the address is of the other family than the port", c.dev.local(), to)
	}
	now := c.now()
	f, err := c.table.opening(now, to, rtt)
	if err != nil {
		c.mu.Unlock()
		return fmt.Errorf("open fake TCP to %v: %w", to, err)
	}
	f.hs.waiters++
	defer c.leave(f)
	return c.await(ctx, f, now)
}

// await drives the handshake until f lives. Called under mu, and leaves it.
func (c *Conn) await(ctx context.Context, f *flow, began time.Duration) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for now := began; ; now = c.now() {
		if c.closed || c.table.flows[f.remote] != f {
			c.mu.Unlock()
			return net.ErrClosed
		}
		if f.lives(now) {
			c.mu.Unlock()
			return nil
		}
		timer.Reset(c.table.handshake(now, f))
		if f.hs.changed == nil {
			f.hs.changed = make(chan struct{})
		}
		changed, out := f.hs.changed, c.table.out
		c.table.out = nil
		c.wind(now, slowTick)
		c.mu.Unlock()
		c.deliver(out)
		select {
		case <-changed:
		case <-timer.C:
		case <-c.done:
		case <-ctx.Done():
			c.mu.Lock()
			defer c.mu.Unlock()
			if f.lives(c.now()) {
				return nil
			}
			return &openError{to: f.remote, took: c.now() - began, sent: f.hs.sent, refused: f.hs.refused, held: f.hs.held,
				heard: f.knows, err: ctx.Err()}
		}
		c.mu.Lock()
	}
}

// leave ends an Open's part. The flow stays for a while, so that another Open
// goes on with the same number.
func (c *Conn) leave(f *flow) {
	c.mu.Lock()
	f.hs.waiters--
	last, open := f.hs.waiters == 0, f.state == established
	if last && !open {
		c.table.dropHeld(f)
	}
	c.mu.Unlock()
	if last && open {
		c.release(f)
	}
}

// Prime sends one SYN, which opens our own NAT; with a small hop limit it dies
// before it reaches the peer's, and 0 is the usual one. An Open, or an answer
// to the peer's SYN, goes on with the same number.
func (c *Conn) Prime(to netip.AddrPort, ttl int) error {
	to = key(to)
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return net.ErrClosed
	}
	now := c.now()
	f, err := c.table.opening(now, to, 0)
	if err == nil && (f.state == closed || f.state == synSent) {
		c.table.sendSYN(now, f, uint8(ttl))
		c.wind(now, slowTick)
	}
	out := c.table.out
	c.table.out = nil
	c.mu.Unlock()
	c.deliver(out)
	return err
}

// Stats is dgram.StatsReader's: what the device lost, or sent the slow way.
func (c *Conn) Stats() dgram.Stats {
	d, ok := c.dev.(interface{ tally() map[string]uint64 })
	if !ok {
		return dgram.Stats{}
	}
	t := d.tally()
	return dgram.Stats{Full: t["queue_full"], Overflow: t["overflow"], OneByOne: t["one_by_one"]}
}
