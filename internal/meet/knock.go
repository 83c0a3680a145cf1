package meet

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/punch"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// Handshakes that somebody may have us answer: a second's, and at once. Each
// takes two multiplications on the curve, and only who knows the secret, or has
// recorded who did, gets that far.
const (
	offersEach  = 5
	offersBurst = 10
	// againAfter keeps recorded messages from having us send all the time.
	againAfter = 3 * time.Second
	maxTargets = 4
)

var errTooMany = errors.New("too many handshakes at once")

// knocking is our attempt to meet.
type knocking struct {
	open    bool // the time has come: the peer is answered
	id      uint64
	hand    *seal.Meeting // nil: none is under way
	first   []byte        // its first message
	targets []netip.AddrPort
	heard   bool // the peer has begun
	began   time.Time
	again   time.Time // when the peer had us begin anew
	offers  *rate.Limiter
}

// begin makes a first message. Caller holds m.mu.
func (m *meeting) begin() error {
	var id [8]byte
	rand.Read(id[:])
	k := &m.knocks
	k.id = binary.BigEndian.Uint64(id[:])
	hand, first, err := seal.Meet(m.cfg.Secret, proto.Greeting{ID: k.id, Half: m.half}.Append(nil))
	k.hand, k.first = hand, first
	return err
}

// knock sends our first message until there is a session that works, for so
// long at most. The time to prime is cut short when the peer is heard.
func (m *meeting) knock(ctx context.Context, most, prime time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	began := time.Now()
	if err := m.startKnocking(began); err != nil {
		return err
	}
	defer m.stopKnocking()
	if m.cfg.Call != nil {
		mine := m.outside()
		m.tasks.Go(func() { m.cfg.Call(ctx, mine) })
	}
	m.tell(Event{What: Knocking, Addr: m.cfg.Peer.String(), Until: began.Add(most)})
	for {
		since := time.Since(began)
		pace := greetLater
		switch {
		case since < prime && !m.isHeard():
			m.prime(since > prime/2)
			pace = min(primePace, prime-since)
		case since < soon:
			pace = greetSoon
			m.greet()
		default:
			m.greet()
		}
		timer := time.NewTimer(pace)
		select {
		case <-m.signals.met:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return m.explain(time.Since(began))
		case <-timer.C:
		}
	}
}

func (m *meeting) startKnocking(now time.Time) error {
	take(m.signals.met)
	take(m.signals.lost)
	take(m.signals.again)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.knocks.open, m.knocks.began, m.knocks.heard = true, now, false
	m.knocks.targets = []netip.AddrPort{m.cfg.Peer}
	m.seen = sights{}
	if c, ok := m.conn.(dgram.RefusalCounter); ok && c.CountRefusals(true) == nil {
		m.seen.refusals = c
	}
	return m.begin()
}

func (m *meeting) stopKnocking() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.knocks.hand, m.knocks.first = nil, nil
	if m.seen.refusals != nil {
		_ = m.seen.refusals.CountRefusals(false) // the socket is closed: it is over
	}
}

// outside is where we are seen, as far as that is known.
func (m *meeting) outside() netip.AddrPort {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mine.IsValid() {
		return m.mine
	}
	return netip.AddrPortFrom(netip.IPv4Unspecified(), m.conn.LocalAddr().Port())
}

func (m *meeting) isHeard() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.knocks.heard
}

// prime opens our own NAT and goes no further: a peer's NAT that accepts what
// nobody asked for would take an early message as addressed to itself, and then
// send its own host's from another port. First by a datagram that the router
// behind ours drops, then by one that dies a few routers further, behind a
// carrier's NAT.
func (m *meeting) prime(further bool) {
	to := m.cfg.Peer
	if path.Private(to.Addr()) || to.Addr().IsLoopback() {
		return // no NAT lies between, and few hops
	}
	b := dgram.One(to, proto.Prime())
	if w, ok := m.conn.(dgram.RoutersWriter); ok && !further && to.Addr().Is4() {
		m.wrote(w.WriteRouters(b, 1))
		return
	}
	if w, ok := m.conn.(dgram.TTLWriter); ok {
		m.wrote(w.WriteTTL(b, punch.DefaultPlan().PrimeTTL)) // as from a coordinator's introduction
	}
}

// greet sends our first message to wherever the peer may be.
func (m *meeting) greet() {
	m.mu.Lock()
	first, targets := m.knocks.first, slices.Clone(m.knocks.targets)
	m.mu.Unlock()
	if first == nil {
		return // it was answered: probes are under way
	}
	for _, to := range targets {
		m.send(to, false, first)
	}
}

func (m *meeting) send(to netip.AddrPort, answer bool, message []byte) {
	m.wrote(m.conn.Write(dgram.One(to, proto.AppendMeet(nil, answer, message))))
}

// wrote notes why nothing leaves.
func (m *meeting) wrote(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.sent++
	if err != nil {
		m.seen.unsent, m.seen.fault = m.seen.unsent+1, err
	}
}

// target adds an address that the peer speaks from. Caller holds m.mu.
func (m *meeting) target(from netip.AddrPort) (news bool) {
	k := &m.knocks
	if slices.Contains(k.targets, from) {
		return false
	}
	if len(k.targets) < maxTargets {
		k.targets = append(k.targets, from)
	}
	return true
}

// knocked takes a first message of the peer's.
func (m *meeting) knocked(from netip.AddrPort, message []byte) {
	m.mu.Lock()
	answer, news := m.answer(from, message)
	m.mu.Unlock()
	if news {
		m.tell(Event{What: Heard, Addr: from.String()})
	}
	if answer != nil {
		m.send(from, true, answer)
	}
}

// answer is what a first message is answered with, nil where the peer is to
// answer ours. Caller holds m.mu.
func (m *meeting) answer(from netip.AddrPort, message []byte) (answer []byte, news bool) {
	k := &m.knocks
	if !k.open {
		m.seen.dropped++
		return nil, false // it is not time yet
	}
	if t := m.talks.answered(message); t != nil {
		return t.answer, false
	}
	answer, keys, theirs, err := m.open(message)
	switch {
	case errors.Is(err, errTooMany):
		m.seen.dropped++
		return nil, false
	case err != nil:
		m.seen.forge(from)
		return nil, false
	case theirs.ID == k.id:
		m.seen.dropped++
		return nil, false // our own, come back
	case k.hand == nil:
		m.unexpected(theirs)
		return nil, false
	}
	k.heard = true
	m.seen.heard++
	news = m.target(from)
	if k.id < theirs.ID {
		return nil, news
	}
	t := m.newTalk(keys, false, theirs)
	t.message, t.answer = message, answer
	if len(m.talks.offered) == maxOffered {
		m.talks.remove(m.talks.offered[0])
	}
	m.talks.offered = append(m.talks.offered, t)
	return answer, news
}

// open reads a first message, and makes the answer to it. Caller holds m.mu.
func (m *meeting) open(message []byte) (answer []byte, keys seal.Keys, theirs proto.Greeting, err error) {
	answer, keys, err = seal.Met(m.cfg.Secret, message, func(b []byte) (ours []byte, err error) {
		if theirs, err = proto.ParseGreeting(b); err != nil {
			return nil, err
		}
		if !m.knocks.offers.Allow() {
			return nil, errTooMany
		}
		return proto.Greeting{ID: m.knocks.id, Half: settle(m.half, theirs.Half, false)}.Append(nil), nil
	})
	return answer, keys, theirs, err
}

// unexpected is a first message that comes while we don't knock: of the meeting
// that there is, or of a peer that has begun anew. Caller holds m.mu.
func (m *meeting) unexpected(theirs proto.Greeting) {
	k, now := &m.knocks, time.Now()
	if m.current == nil || m.current.peer == theirs.ID || now.Sub(k.again) < againAfter {
		return
	}
	k.again = now
	give(m.signals.again, struct{}{})
}

// met takes the answer to our first message, and tries the way that it came.
func (m *meeting) met(from netip.AddrPort, message []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := &m.knocks
	if k.hand == nil {
		return // a repetition
	}
	keys, payload, err := k.hand.Finish(message)
	if err != nil {
		m.seen.forge(from)
		return
	}
	theirs, err := proto.ParseGreeting(payload)
	if err != nil {
		m.seen.forge(from)
		return
	}
	k.hand, k.first, k.heard = nil, nil, true
	m.seen.heard++
	t := m.newTalk(keys, true, theirs)
	m.tasks.Go(func() { m.try(t, from) })
}

// try proves the path; where that fails, we knock on.
func (m *meeting) try(t *talk, at netip.AddrPort) {
	ctx, cancel := context.WithTimeout(m.ctx, tryFor)
	defer cancel()
	if _, err := t.Try(ctx, path.Path{Conn: m.conn, Addr: at}, path.DirectUDP); err == nil {
		m.adopt(t)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.talks.remove(t)
	if m.ctx.Err() == nil && m.current == nil && m.knocks.hand == nil {
		if err := m.begin(); err != nil {
			give(m.signals.fault, err)
		}
	}
}
