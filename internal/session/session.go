// Package session is a sealed association with one peer: it probes the paths
// that rungs find, sends over the best, moves without losing a datagram, and
// knows when a path is dead. It owns no socket and no technique.
package session

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// Handler gets what a session brings. Deliver runs on the reader's goroutine
// and must not block; its burst is valid during the call.
type Handler interface {
	Deliver(flow uint16, b dgram.Burst)
	Frame(f *proto.Frame)
	Event(e Event)
}

// Event tells the owner what happened to the paths.
type Event uint8

// The events.
const (
	// BestChanged: data now goes over another path.
	BestChanged Event = iota
	// InDoubt: the best path has left a probe unanswered; data goes over the
	// spare as well.
	InDoubt
	// Lost: no path is left.
	Lost
	// DirectLost: a direct path died; data goes over the relay.
	DirectLost
	// Confirmed: the initiator has the keys too, so the responder's data may
	// leave.
	Confirmed
	// Degraded: the best path is worse than the thresholds; other kinds are
	// worth trying.
	Degraded
	// Outdone: data left a path that works for one of a lower kind, which was
	// measured to be better.
	Outdone
	// Starved: data waits for a path of some kinds, and there is none.
	Starved
	// Served: now there is one.
	Served
	// Resumed: data crosses again after a pause.
	Resumed
)

// Config is what a session is made of.
type Config struct {
	Probe     seal.ProbeKeys
	Initiator bool
	// Raw sends datagrams untouched; only probes are sealed.
	Raw    bool
	Timers Timers
	// Thresholds are when the best path is bad; zero ones are the defaults.
	Thresholds Thresholds
	Handler    Handler
	// Rekey makes handshakes for new keys; nil in a raw session.
	Rekey Rekeyer
	// Detour takes a raw session's datagrams past it; nil: none go there.
	Detour Detour
}

// Session is one association. Its methods are safe for concurrent use, but
// each conn's bursts must come from one goroutine with an Rx of its own.
type Session struct {
	cfg    Config
	mu     sync.Mutex // guards paths, probes and join
	paths  table
	probes prober
	join   joiner
	route  atomic.Pointer[route]
	rules  rules
	keys   keyring
	counts counters
	seen   activity
	begun  beginning
	wake   chan struct{}
	done   chan struct{}
	once   sync.Once
}

// beginning is how far both ends have come with their first keys. The
// responder has them while its answer is still on its way to the initiator,
// where datagrams that overtake it could not be opened.
type beginning struct {
	confirmed atomic.Bool // of the responder: the initiator has the keys
	greeted   atomic.Bool // of the initiator: it has told so
}

// New makes a session that can probe at once. Data waits for Establish,
// except in a raw session, which needs no keys.
func New(cfg Config) *Session {
	cfg.Timers = cfg.Timers.withDefaults()
	cfg.Thresholds = cfg.Thresholds.withDefaults()
	s := &Session{
		cfg:   cfg,
		paths: table{states: make(map[path.Path]*state)},
		wake:  make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	s.probes.waiting = make(map[uint64]sent)
	s.seen.began = time.Now()
	return s
}

// Establish gives the session the keys of its handshake.
func (s *Session) Establish(k seal.Keys) {
	s.keys.install(0, k, true)
	s.mu.Lock()
	events := s.choose(time.Now())
	s.mu.Unlock()
	s.tell(events)
	s.greet()
	s.poke()
}

// Ready says whether data can leave: there are a path and a key, which the
// peer has too.
func (s *Session) Ready() bool {
	return s.route.Load() != nil && (s.cfg.Raw || s.keys.sending.Load() != nil && s.Confirmed())
}

// Confirmed says whether the peer is known to have the keys if we do.
func (s *Session) Confirmed() bool { return s.cfg.Initiator || s.cfg.Raw || s.begun.confirmed.Load() }

// Doubtful says whether the best path owes answers to probes.
func (s *Session) Doubtful() bool {
	r := s.route.Load()
	return r != nil && r.doubt
}

// greet is the initiator's first sealed datagram, which lets the responder
// begin. If it is lost, the next probe tells that it was sent.
func (s *Session) greet() {
	if s.cfg.Initiator && !s.cfg.Raw && !s.begun.greeted.Load() && s.Ready() && s.begun.greeted.CompareAndSwap(false, true) {
		s.SendFrame(&proto.Frame{})
	}
}

// confirm notes that the initiator has the keys.
func (s *Session) confirm() {
	if s.cfg.Initiator || s.cfg.Raw || s.begun.confirmed.Load() || s.keys.sending.Load() == nil {
		return
	}
	if s.begun.confirmed.CompareAndSwap(false, true) {
		s.tell([]Event{Confirmed})
	}
}

// Run keeps paths alive, finds dead ones and renews keys until ctx ends or
// Close is called.
func (s *Session) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer s.lead(false)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.done:
			return
		case <-timer.C:
		case <-s.wake:
		}
		next := s.step(time.Now())
		timer.Reset(max(next, time.Millisecond))
	}
}

// Close ends the session: Run returns and tries fail. It closes no conn.
func (s *Session) Close() {
	s.once.Do(func() {
		close(s.done)
		s.route.Store(nil)
		for i := range s.rules {
			if rl := s.rules[i].Load(); rl != nil {
				rl.route.Store(nil)
			}
		}
	})
}

// Done is closed by Close.
func (s *Session) Done() <-chan struct{} { return s.done }

// Token is what the peer's probes to this session carry.
func (s *Session) Token() proto.Token { return s.cfg.Probe.Local }

// PeerToken is what our probes carry.
func (s *Session) PeerToken() proto.Token { return s.cfg.Probe.Remote }

// poke makes Run look again soon; it never blocks.
func (s *Session) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// tell hands events to the owner, and has Run look at what they changed. Who
// has closed the session hears no more of it.
func (s *Session) tell(events []Event) {
	select {
	case <-s.done:
		return
	default:
	}
	if len(events) > 0 {
		s.poke()
	}
	for _, e := range events {
		s.cfg.Handler.Event(e)
	}
}

// activity remembers when data last crossed, to tell an idle session, whose
// paths need only a keepalive, from one in use.
type activity struct {
	began    time.Time
	was      bool         // active, when last stepped
	sent     atomic.Int64 // nanoseconds after began
	received atomic.Int64
}

func (a *activity) active(now time.Time, within time.Duration) bool {
	last := max(a.sent.Load(), a.received.Load())
	return last > 0 && now.Sub(a.began)-time.Duration(last) < within
}

// touch notes traffic and says whether there had been none for a while.
func (a *activity) touch(which *atomic.Int64, quiet time.Duration) bool {
	now := int64(time.Since(a.began)) + 1
	before := which.Swap(now)
	return before == 0 || now-before > int64(quiet)
}

// LastData is when data last crossed in either direction, zero if never.
func (s *Session) LastData() time.Time {
	last := max(s.seen.sent.Load(), s.seen.received.Load())
	if last == 0 {
		return time.Time{}
	}
	return s.seen.began.Add(time.Duration(last))
}
