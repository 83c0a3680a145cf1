// Package forward carries the datagrams of local clients to a peer's services,
// and those of a peer's clients to services here. Each client's address is a
// flow, with a socket of its own before the service, so that the service tells
// clients apart by their address as if they were near.
//
// A Flows belongs to one peer and outlives sessions with it: a flow is named by
// the dialing agent's instance and a number, not by the session that carries
// it, so its far socket stays when the path moves or the session is replaced.
package forward

import (
	"cmp"
	"container/list"
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// Carrier is the peer. Flows calls it while holding no lock.
type Carrier interface {
	// Send carries a flow's datagrams, over these kinds of path alone; the
	// empty set is no rule. b is valid during the call. It never blocks, and
	// holds back a few datagrams while there is no session or no such path yet.
	Send(only path.Kinds, flow uint16, b dgram.Burst)
	// SendFrame carries control, over these kinds of path where it holds a
	// datagram. It may be lost; what matters is repeated.
	SendFrame(only path.Kinds, f *proto.Frame)
	// Raw tells the dialing side that the far service is raw: the flow wants a
	// 5-tuple of its own, to be given with SetRaw. It may come again for a
	// flow that has none.
	Raw(flow uint16, instance uint64)
}

// Limits bound a peer's flows. A field that is not over 0 takes its default.
type Limits struct {
	// Max is how many flows live at once with one peer, in both directions.
	// One more ends the one that was used least recently.
	Max int
	// Unanswered and Answered end an idle flow: one that only one side has
	// sent on, and one that both have.
	Unanswered, Answered time.Duration
}

// Defaults. RFC 4787 asks a NAT to remember a UDP mapping for two minutes at
// least, so three surprise no client.
const (
	defaultMax        = 12288
	defaultUnanswered = time.Minute
	defaultAnswered   = 3 * time.Minute
)

func (l Limits) withDefaults() Limits {
	return Limits{
		Max:        min(cmp.Or(max(l.Max, 0), defaultMax), proto.MaxFlow),
		Unanswered: cmp.Or(max(l.Unanswered, 0), defaultUnanswered),
		Answered:   cmp.Or(max(l.Answered, 0), defaultAnswered),
	}
}

// Config is what Flows need. Carrier, Instance, Services and Network are
// required.
type Config struct {
	Carrier  Carrier
	Instance uint64 // of this run of the agent; not 0
	// Low says that this side hands out flow numbers from the lower half. The
	// two sides must differ.
	Low      bool
	Services *Services
	Network  dgram.Network
	Limits   Limits
	// Aliases give flows to services with ?alias their source, one to a peer;
	// Peer names it. nil: none has one.
	Aliases *Aliases
	Peer    string
	Resolve Resolve
}

// closesEach is how many closes a second answer datagrams of unknown flows,
// after a first closesBurst. It is enough for every flow of a peer to hear,
// within seconds, that this agent has restarted.
const (
	closesEach  = 1000
	closesBurst = 100
)

// Flows are all flows with one peer, both those that our clients began and
// those that the peer's did. Its methods may be called from many goroutines.
type Flows struct {
	cfg     Config
	began   time.Time
	closes  *rate.Limiter
	count   counters
	ctx     context.Context // ends with Close
	stop    context.CancelFunc
	readers sync.WaitGroup

	mu           sync.RWMutex // guards what follows, and what flows say it guards
	byNumber     map[uint16]*flow
	recent       *list.List // of *flow, the last used first
	numbers      numbers
	unanswered   map[*flow]struct{} // outgoing flows whose Open waits for an Opened
	dials        []*Dial
	outgoing     int
	exposed      uint64 // the version of Services that flows agree with
	peerInstance uint64 // of the last Open
	pastInstance uint64 // the one before: the peer has restarted since
}

// New makes the flows of one peer.
func New(cfg Config) *Flows {
	cfg.Limits = cfg.Limits.withDefaults()
	t := &Flows{
		cfg:        cfg,
		began:      time.Now(),
		closes:     rate.NewLimiter(closesEach, closesBurst),
		byNumber:   make(map[uint16]*flow),
		recent:     list.New(),
		numbers:    newNumbers(cfg.Low),
		unanswered: make(map[*flow]struct{}),
	}
	t.ctx, t.stop = context.WithCancel(context.Background())
	return t
}

// now is the time on the clock that flows use: it does not jump when the
// host's clock is set.
func (t *Flows) now() time.Duration { return time.Since(t.began) }

func (t *Flows) find(number uint16) *flow {
	t.mu.RLock()
	f := t.byNumber[number]
	t.mu.RUnlock()
	return f
}

// Deliver takes what the peer sent on a flow and writes it, as one burst, to
// the client or the service.
func (t *Flows) Deliver(number uint16, b dgram.Burst) {
	f := t.find(number)
	if f == nil {
		t.count.add(unknownFlow, b.Len())
		t.sayUnknown(number)
		return
	}
	t.touch(f)
	if f.out != nil {
		f.answered.Store(true)
	}
	r := f.route.Load()
	if r == nil {
		t.hold(f, b)
		return
	}
	b.Addr = r.to
	t.count.write(r.conn, b)
}

// sayUnknown tells the peer that a flow does not live here. Whose it was we
// can't know, so it names no instance.
func (t *Flows) sayUnknown(number uint16) {
	if number != proto.ControlFlow && number <= proto.MaxFlow && t.closes.Allow() {
		t.cfg.Carrier.SendFrame(0, closeFrame(number, 0, "unknown flow"))
	}
}

// Frame takes control from the peer: Open, Opened and Close. Others are not
// ours.
func (t *Flows) Frame(f *proto.Frame) {
	switch m := f.GetBody().(type) {
	case *proto.Frame_Open:
		t.open(m.Open)
	case *proto.Frame_Opened:
		t.opened(m.Opened)
	case *proto.Frame_Close:
		t.closed(m.Close)
	}
}

// SetRaw lets a flow's datagrams go through send for as long as it returns
// true; what it refuses, and everything once send is nil, goes sealed. It does
// nothing when no such flow lives.
func (t *Flows) SetRaw(number uint16, instance uint64, send func(path.Kinds, dgram.Burst) bool) {
	f := t.find(number)
	if f == nil || f.instance != instance {
		return
	}
	if send == nil {
		f.raw.Store(nil)
		return
	}
	f.raw.Store(&send)
}

// IsRaw says whether such a flow lives, its service is a raw one, and its rule
// lets datagrams cross over UDP unchanged.
func (t *Flows) IsRaw(number uint16, instance uint64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	f := t.byNumber[number]
	switch {
	case f == nil || f.instance != instance || !f.overUDP():
		return false
	case f.out != nil:
		return f.out.raw
	}
	return f.in.service.target.Raw
}

// Reopen announces the outgoing flows again, because a new session was made
// and the peer may have restarted. Some are announced at once; a flow in use
// is with its next burst, the rest by Expire.
func (t *Flows) Reopen() {
	now := t.now()
	t.mu.Lock()
	t.announceAll()
	frames := t.repeat(now)
	t.mu.Unlock()
	t.announce(frames...)
}

// Expire ends what has been idle too long and what goes to services that are
// exposed no more, and repeats what the peer has not answered. It returns how
// long nothing else will be due, unless a flow is opened or used meanwhile.
func (t *Flows) Expire(now time.Time) (next time.Duration) {
	at := now.Sub(t.began)
	t.mu.Lock()
	idle, next := t.idle(at)
	for _, f := range idle {
		t.remove(f, at)
	}
	gone := t.withdrawn()
	frames := t.repeat(at)
	if len(t.unanswered) > 0 {
		next = min(next, repeatEach)
	}
	t.mu.Unlock()
	t.count.add(expiredFlow, len(idle))
	t.finish(idle, "idle")
	t.finish(gone, "service withdrawn")
	t.announce(frames...)
	return next
}

// idle are the flows that were not used for too long, and when the next one will
// be. t.mu is held.
func (t *Flows) idle(now time.Duration) (out []*flow, next time.Duration) {
	l := t.cfg.Limits
	next = min(l.Unanswered, l.Answered)
	for e := t.recent.Back(); e != nil; e = e.Prev() {
		f := e.Value.(*flow)
		age := now - time.Duration(f.used.Load()) - coarse
		if age < min(l.Unanswered, l.Answered) {
			next = min(next, min(l.Unanswered, l.Answered)-age)
			break // those before it were used later
		}
		if age >= l.Answered || age >= l.Unanswered && !f.answered.Load() {
			out = append(out, f)
		} else {
			next = min(next, max(l.Answered, l.Unanswered)-age)
		}
	}
	return out, next
}

// Len is how many flows live, and Outgoing how many of them our clients began.
func (t *Flows) Len() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byNumber)
}

// Outgoing is how many flows our clients began.
func (t *Flows) Outgoing() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.outgoing
}

// Close ends all dials and flows and waits for their readers. The peer is told
// nothing: it hears that the session ends.
func (t *Flows) Close() {
	t.stop()
	t.mu.Lock()
	dials := t.dials
	t.dials = nil
	for _, d := range dials {
		d.closed = true
	}
	all := t.removeIf(func(*flow) bool { return true })
	t.mu.Unlock()
	for _, d := range dials {
		closeConn(d.conn)
	}
	t.finish(all, "")
	t.readers.Wait()
}

// announcement is an Open, and the rule of the flow whose first datagram it
// may hold.
type announcement struct {
	only path.Kinds
	open *proto.Frame
}

func (t *Flows) announce(list ...announcement) {
	for _, a := range list {
		t.cfg.Carrier.SendFrame(a.only, a.open)
	}
}

func closeFrame(number uint16, instance uint64, why string) *proto.Frame {
	return &proto.Frame{Body: &proto.Frame_Close{Close: &proto.Close{Flow: uint32(number), Instance: instance, Reason: why}}}
}
