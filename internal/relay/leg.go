package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// How an agent's leg repeats its binds.
const (
	bindFirst   = 50 * time.Millisecond // until the first repetition; doubled up to bindSlowest
	bindSlowest = time.Second
	refreshEach = 15 * time.Second // below the 30 s after which the shortest NATs forget a UDP mapping
	// SlowestPace leaves room for all tries before the relay lets the leg's
	// address lapse.
	SlowestPace = 30 * time.Second
	refreshTry  = time.Second // until the first repetition of an unanswered refresh; doubled each time
	refreshMost = 4           // tries before the relay is given up
)

// Errors of Bind and Keep, told apart with errors.Is. Either way the remedy is
// a new introduction, which brings a new allocation.
var (
	// ErrGone means that the relay said that the allocation has ended.
	ErrGone = errors.New("the relay has ended this allocation; ask for a new introduction")
	// ErrSilent means that the relay did not answer.
	ErrSilent = errors.New("the relay does not answer")
)

// Leg is an agent's side of an allocation, on a conn of its own. One goroutine
// reads the conn and gives Receive what comes; another blocks in Bind and then
// in Keep.
type Leg struct {
	conn  dgram.Conn
	relay netip.AddrPort
	bind  proto.Bind // as it is sent, but for counter and MAC
	key   []byte

	mu       sync.Mutex
	every    time.Duration // between refreshes; 0: refreshEach
	counter  uint64        // of the last bind sent
	answered uint64        // the highest counter answered
	both     bool          // what that answer said
	gone     bool
	changed  chan struct{} // closed and replaced when an answer came
}

// NewLeg is the leg of alloc on conn, towards the relay at an address on it:
// over UDP one that alloc names, over another transport the far end of that.
// Its error says what alloc lacks.
func NewLeg(conn dgram.Conn, relay netip.AddrPort, alloc *proto.Allocation) (*Leg, error) {
	if len(alloc.GetId()) != proto.TokenSize || len(alloc.GetKey()) != 32 || alloc.GetLeg() > 1 {
		return nil, fmt.Errorf("relay: allocation with %d bytes of id, %d of key, leg %d; want 8, 32, and 0 or 1: is the coordinator of another version?",
			len(alloc.GetId()), len(alloc.GetKey()), alloc.GetLeg())
	}
	l := &Leg{
		conn: conn, relay: relay,
		key:  alloc.GetKey(),
		bind: proto.Bind{Allocation: proto.Token(alloc.GetId()), Leg: uint8(alloc.GetLeg())},
		// A second Leg of the same allocation must go on rising.
		counter: uint64(time.Now().UnixNano()),
		changed: make(chan struct{}),
	}
	l.answered = l.counter
	return l, nil
}

// Addr is the relay's address: with the conn, it is the path through the relay.
func (l *Leg) Addr() netip.AddrPort { return l.relay }

// Refresh sends one bind now. Call it when this host's network changed, so that
// the relay learns the leg's new address without waiting for Keep.
func (l *Leg) Refresh() error {
	l.mu.Lock()
	l.counter++
	b := l.bind
	b.Counter = l.counter
	l.mu.Unlock()
	b.MAC = seal.BindMAC(l.key, b)
	return l.conn.Write(dgram.One(l.relay, proto.AppendBind(nil, b)))
}

// state is what the last answer said.
type state struct {
	answered   uint64
	both, gone bool
	changed    <-chan struct{} // closed by the next answer
}

func (l *Leg) state() state {
	l.mu.Lock()
	defer l.mu.Unlock()
	return state{l.answered, l.both, l.gone, l.changed}
}

// Claim binds the leg and blocks until the relay has answered, whether the
// peer's leg is bound or not: of several transports, the one that answers first
// is the one to Bind over. It repeats the bind until then and ends with ctx.
func (l *Leg) Claim(ctx context.Context) error {
	return l.repeat(ctx, func(st state, began uint64) bool { return st.answered > began })
}

// Bind binds the leg and blocks until both legs are bound. It repeats the bind
// until then, so a lost answer delays but does not harm; a Write that is
// refused (an interface that is down) counts as a lost bind. It ends with ctx.
func (l *Leg) Bind(ctx context.Context) error {
	return l.repeat(ctx, func(st state, began uint64) bool { return st.both && st.answered > began })
}

func (l *Leg) repeat(ctx context.Context, done func(st state, began uint64) bool) error {
	began := l.state().answered
	wait := bindFirst
	for {
		writeErr := l.Refresh()
		if errors.Is(writeErr, net.ErrClosed) {
			return fmt.Errorf("bind to relay %v: %w", l.relay, writeErr)
		}
		timer := time.NewTimer(wait)
		st, err := l.await(ctx, timer.C, func(st state) bool { return st.gone || done(st, began) })
		timer.Stop()
		switch {
		case st.gone:
			return fmt.Errorf("bind to relay %v: %w", l.relay, ErrGone)
		case done(st, began):
			return nil
		case err == nil:
			wait = min(2*wait, bindSlowest)
		case st.answered > began:
			return fmt.Errorf("bind to relay %v: it answers, but the peer has not bound its leg: %w", l.relay, err)
		default:
			return fmt.Errorf("bind to relay %v: %w (%w); is that port open?", l.relay, silent(writeErr), err)
		}
	}
}

// silent is ErrSilent, and what the last write said if it was refused.
func silent(writeErr error) error {
	if writeErr == nil {
		return ErrSilent
	}
	return fmt.Errorf("%w; last write: %w", ErrSilent, writeErr)
}

// Pace sets how often Keep refreshes the bind, SlowestPace at most; every 15 s
// where nothing is set. It holds from the next refresh on.
func (l *Leg) Pace(every time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.every = min(every, SlowestPace)
}

func (l *Leg) pace() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return cmp.Or(l.every, refreshEach)
}

// Keep refreshes the bind until ctx ends, then returns nil. It returns an error
// once the relay says that the allocation is gone, leaves four tries in a row
// unanswered, which takes about 15 s from the first, or the conn is closed.
func (l *Leg) Keep(ctx context.Context) error {
	p := NewPulse(l, l.pace())
	timer := time.NewTimer(p.every)
	defer timer.Stop()
	for {
		if _, err := l.await(ctx, timer.C, func(st state) bool { return st.gone || p.try > 0 && st.answered > p.before }); err != nil {
			return nil
		}
		p.every = l.pace()
		again, err := p.Beat()
		if err != nil {
			return err
		}
		timer.Reset(again)
	}
}

// await blocks until done, the timer fires or ctx ends, which alone is an error.
func (l *Leg) await(ctx context.Context, timer <-chan time.Time, done func(state) bool) (state, error) {
	for {
		st := l.state()
		if done(st) {
			return st, nil
		}
		select {
		case <-st.changed:
		case <-timer:
			return l.state(), nil
		case <-ctx.Done():
			return l.state(), ctx.Err()
		}
	}
}

// Receive is true when the burst was nothing but answers of the relay for this
// leg. GRO may join an answer with data that came behind or before it: then it
// is taken note of, Receive is false, and Strip gives the data alone.
func (l *Leg) Receive(b dgram.Burst) bool {
	if b.Addr != l.relay || !mayHoldBind(b) {
		return false
	}
	all := true
	for d := range b.All() {
		all = l.answer(d) && all
	}
	return all
}

// Strip removes the relay's answers from the burst, in place, and gives what
// is left; ok is false when nothing is. A raw flow needs it, whose payload must
// reach the service unchanged and with nothing added; in a session, an answer
// is only one more datagram that does not open.
func (l *Leg) Strip(b dgram.Burst) (rest dgram.Burst, ok bool) {
	if b.Addr != l.relay || !mayHoldBind(b) {
		return b, true
	}
	rest, rest.Buf = b, b.Buf[:0]
	for d := range b.All() {
		if !l.answer(d) {
			rest.Buf = append(rest.Buf, d...)
			ok = true
		}
	}
	return rest, ok
}

// answer is true when d is an answer of the relay for this leg, fresh or old.
func (l *Leg) answer(d []byte) bool {
	b, err := proto.ParseBind(d)
	if err != nil || !b.Bound || b.Allocation != l.bind.Allocation || b.Leg != l.bind.Leg {
		return false
	}
	genuine := seal.CheckBind(l.key, b)
	l.mu.Lock()
	defer l.mu.Unlock()
	if !genuine || b.Counter > l.counter {
		return genuine
	}
	if b.Counter < l.answered || b.Counter == l.answered && !b.Both && !b.Gone {
		return true // it was overtaken: of one counter, what says more came later
	}
	// A Both that the relay pushes repeats the counter of the last bind.
	l.answered, l.both = b.Counter, b.Both
	l.gone = l.gone || b.Gone
	close(l.changed)
	l.changed = make(chan struct{})
	return true
}
