// Package meet joins two agents without a coordinator: their operators agree on
// a secret, addresses and a time. Each sends a handshake message to where the
// other is said to be, so that both NATs see their own host speak first; what
// comes of it is a session like any other, which carries services.
package meet

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"rendezvous/internal/dgram"
	"rendezvous/internal/forward"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/internal/session"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// Config is what two operators agreed on, and what to carry.
type Config struct {
	Network  dgram.Network
	Local    netip.AddrPort // to listen on; of the peer's family
	Peer     netip.AddrPort // where the peer is said to be
	Secret   seal.Secret
	When     Window
	STUN     []netip.AddrPort // servers to ask how we are seen; may be none
	Services *forward.Services
	Dials    []Dial
	Resolve  forward.Resolve
	Tell     func(Event) // from one goroutine at a time
	// Learn, where Peer is not known, finds out where it is, while we wait for the
	// time and beyond. Nil: Peer is known.
	Learn func(ctx context.Context) (netip.AddrPort, error)
	// Call runs beside the knocking, until that has led to something; mine is where
	// we are seen, at an unspecified address where nobody told. nil: it is not
	// needed.
	Call func(ctx context.Context, mine netip.AddrPort)
}

// Window is when to try.
type Window struct {
	At  time.Time     // nothing is sent to the peer before
	For time.Duration // so long; where the path is lost later, 10 min at least
}

// Dial is a local address that leads to a service of the peer.
type Dial struct {
	Service string
	Listen  netip.AddrPort
}

// Timing. The clocks of two hosts, and of two people on the phone, differ by
// seconds; until both have begun, what leaves only opens our own NAT.
const (
	primeFor   = 3 * time.Second
	primePace  = 500 * time.Millisecond
	greetSoon  = 250 * time.Millisecond
	greetLater = time.Second
	soon       = 10 * time.Second
	tryFor     = 5 * time.Second
	// A path that was lost is sought for longer: nobody may be there to begin anew.
	anewFor     = 10 * time.Minute
	pingFor     = time.Second
	outsidePace = 15 * time.Second // keeps the mapping that STUN has seen
	outsideFor  = 3 * time.Second
)

// meeting is the whole of it. Its goroutines end with run.
type meeting struct {
	cfg   Config
	conn  dgram.Conn
	stun  *stun.Client
	rx    *session.Rx
	tasks sync.WaitGroup
	ctx   context.Context

	signals  signals
	told     sync.Mutex // one event at a time
	instance uint64

	mu      sync.Mutex // for what follows
	knocks  knocking
	talks   talks
	seen    sights
	mine    netip.AddrPort // as a STUN server sees us
	half    proto.Half     // of flows' numbers, once it is settled
	flows   *forward.Flows
	current *talk
	shown   string // where data goes, as it was told last
}

// signals wake run; each holds one.
type signals struct {
	met   chan struct{} // there is a session, or it has a path again
	lost  chan struct{} // the current one has no path any more
	again chan struct{} // the peer begins anew
	ended chan string   // the peer said goodbye, and why
	fault chan error    // what can't go on
}

func newSignals() signals {
	return signals{make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{}, 1), make(chan string, 1), make(chan error, 1)}
}

// give fills c, which nobody has emptied yet perhaps.
func give[T any](c chan T, v T) {
	select {
	case c <- v:
	default:
	}
}

// take empties c.
func take[T any](c chan T) {
	select {
	case <-c:
	default:
	}
}

// Run meets the peer and carries services until ctx ends, or the peer ends it;
// then it returns nil. Where the peer is not met in time the error is a
// *path.Failure. What is wrong here, an address that can't be listened on say,
// is said before the time has come.
func Run(ctx context.Context, cfg Config) error {
	m := &meeting{cfg: cfg, rx: session.NewRx(), signals: newSignals(), talks: newTalks()}
	var seed [8]byte
	rand.Read(seed[:])
	m.instance = binary.BigEndian.Uint64(seed[:]) | 1
	m.knocks.offers = rate.NewLimiter(offersEach, offersBurst)
	var err error
	if m.conn, err = cfg.Network.ListenUDP(cfg.Local); err != nil {
		return fmt.Errorf("%w; is the port another program's? choose another with --local, and tell the peer", err)
	}
	m.stun = stun.NewClient(m.conn.Write)
	ctx, cancel := context.WithCancel(ctx)
	m.ctx = ctx
	defer func() {
		cancel()
		m.close()
		m.tasks.Wait()
	}()
	if err := m.tryDials(); err != nil {
		return err
	}
	m.tasks.Go(func() { _ = path.Read(m.conn, m.receive) })
	m.tell(Event{What: Listening, Local: m.conn.LocalAddr().String()})
	return m.run(ctx)
}

func (m *meeting) run(ctx context.Context) error {
	if err := m.await(ctx); err != nil {
		return quiet(ctx, err)
	}
	if err := m.knock(ctx, m.cfg.When.For, primeFor); err != nil {
		return quiet(ctx, err)
	}
	return m.carry(ctx)
}

// quiet drops an error that comes of the end.
func quiet(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// tryDials finds out early what can't be listened on.
func (m *meeting) tryDials() error {
	for _, d := range m.cfg.Dials {
		conn, err := m.cfg.Network.ListenUDP(d.Listen)
		if err != nil {
			return fmt.Errorf("listen on udp://%v for clients of %q: %w; is the address this host's, and the port free?", d.Listen, d.Service, err)
		}
		_ = conn.Close() // it is opened again when it leads somewhere
	}
	return nil
}

func (m *meeting) close() {
	_ = m.conn.Close()
	m.mu.Lock()
	flows := m.flows
	for _, t := range m.talks.byToken {
		t.end()
	}
	m.mu.Unlock()
	if flows != nil {
		flows.Close()
	}
}

// learned is what Learn found.
type learned struct {
	peer netip.AddrPort
	err  error
}

// await asks how we are seen, again and again, until the time has come and the
// peer is known: its operator needs to know, and the mapping must not end
// meanwhile.
func (m *meeting) await(ctx context.Context) error {
	o := &outside{m: m}
	o.ask(ctx)
	var found chan learned
	if m.cfg.Learn != nil {
		found = make(chan learned, 1)
		go func() { // it may be in a read that nothing ends
			peer, err := m.cfg.Learn(ctx)
			found <- learned{peer, err}
		}()
	}
	if time.Until(m.cfg.When.At) > 0 {
		m.tell(Event{What: Waiting, At: m.cfg.When.At})
	}
	for ctx.Err() == nil {
		left := time.Until(m.cfg.When.At)
		if left <= 0 && found == nil {
			return nil
		}
		wait := outsidePace
		if left > 0 {
			wait = min(left, wait)
		}
		timer := time.NewTimer(wait)
		select {
		case l := <-found:
			if l.err != nil {
				return l.err
			}
			found, m.cfg.Peer = nil, l.peer
		case <-timer.C:
			if time.Until(m.cfg.When.At) > 0 || found != nil {
				o.ask(ctx)
			}
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return ctx.Err()
}

// carry serves until the end, and meets again when the path is lost.
func (m *meeting) carry(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			m.goodbye()
			return nil
		case why := <-m.signals.ended:
			m.tell(Event{What: Ended, Reason: why})
			return nil
		case err := <-m.signals.fault:
			m.goodbye()
			return err
		case now := <-tick.C:
			m.mu.Lock()
			flows := m.flows
			m.mu.Unlock()
			if flows != nil {
				flows.Expire(now)
			}
		case <-m.signals.again:
			if !m.answers(ctx) {
				_ = m.knock(ctx, soon, 0) // the session that there is goes on meanwhile
			}
		case <-m.signals.lost:
			if m.works() {
				continue
			}
			m.show("")
			m.tell(Event{What: Lost})
			if err := m.knock(ctx, max(anewFor, m.cfg.When.For), 0); err != nil {
				return quiet(ctx, err)
			}
		}
	}
}

// answers says whether the current session's peer is there: then who begins anew
// is not that peer, but somebody who recorded it once.
func (m *meeting) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, pingFor)
	defer cancel()
	_, _, _, err := m.talk().Ping(ctx)
	return err == nil
}

// works says whether the current session has a path.
func (m *meeting) works() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current != nil && m.current.Best() != path.None
}

func (m *meeting) goodbye() {
	m.SendFrame(0, &proto.Frame{Body: &proto.Frame_Bye{Bye: &proto.Bye{Reason: "its operator ended it"}}})
}

// Send carries a flow's datagrams (forward.Carrier); without a path they are
// lost, as UDP's may be.
func (m *meeting) Send(only path.Kinds, flow uint16, b dgram.Burst) {
	if t := m.talk(); t != nil && t.Ready() {
		t.SendOver(only, flow, b)
	}
}

// SendFrame carries control (forward.Carrier).
func (m *meeting) SendFrame(only path.Kinds, f *proto.Frame) {
	if t := m.talk(); t != nil && t.Ready() {
		t.SendFrameOver(only, f)
	}
}

// Raw does nothing: all flows cross sealed (forward.Carrier).
func (m *meeting) Raw(uint16, uint64) {}

func (m *meeting) talk() *talk {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current
}
