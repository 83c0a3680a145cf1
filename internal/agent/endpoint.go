package agent

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/relay"
	"rendezvous/internal/session"
	"rendezvous/internal/stun"
	"rendezvous/proto"
)

// endpoint is one UDP socket of ours and who gets what arrives there. One
// goroutine reads it and runs each burst to completion.
type endpoint struct {
	conn  dgram.Conn
	kind  path.Kind
	stun  *stun.Client
	board *switchboard
	rx    *session.Rx
	ended chan struct{}
	since time.Time

	// owner is the session that the socket was opened for: a relay leg's or a
	// raw flow's. All that arrives is its own, whatever it looks like.
	owner *session.Session
	leg   *relay.Leg
	door  string   // of the coordinator's, that a leg over TLS goes through
	quic  controls // those that are made from here

	mu     sync.RWMutex
	byAddr map[netip.AddrPort]talkers
}

// talkers are the sessions whose peer speaks from one address: while a session
// replaces another, both do.
type talkers struct{ last, before *session.Session }

// switchboard knows all sessions of the agent by their token, and the
// addresses that answer STUN.
type switchboard struct {
	mu        sync.RWMutex
	byToken   map[proto.Token]*session.Session
	stunAddrs map[netip.AddrPort]time.Time // when it last answered, or was named
	doubtful  []netip.AddrPort             // of those, which may see a main socket's port wrong
	dropped   dropCounts
}

// dropCounts counts what belonged to nobody.
type dropCounts struct {
	stranger, stale, malformed atomic.Uint64
}

func newSwitchboard() *switchboard {
	return &switchboard{byToken: make(map[proto.Token]*session.Session), stunAddrs: make(map[netip.AddrPort]time.Time)}
}

func (b *switchboard) add(s *session.Session) {
	b.mu.Lock()
	b.byToken[s.Token()] = s
	b.mu.Unlock()
}

func (b *switchboard) remove(s *session.Session) {
	b.mu.Lock()
	delete(b.byToken, s.Token())
	b.mu.Unlock()
}

func (b *switchboard) session(t proto.Token) *session.Session {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.byToken[t]
}

func (b *switchboard) answersSTUN(a netip.AddrPort) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	_, ok := b.stunAddrs[a]
	return ok
}

// silent says whether a STUN server has not answered for so long that it is
// not asked any more.
func (b *switchboard) silent(a netip.AddrPort) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	at, ok := b.stunAddrs[a]
	return ok && time.Since(at) > maxSilence
}

// answered notes that a STUN server is one.
func (b *switchboard) answered(a netip.AddrPort) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.stunAddrs[a]; ok {
		b.stunAddrs[a] = time.Now()
	}
}

// doubts says whether a server may see a main socket's port wrong; see raced.
func (b *switchboard) doubts(server netip.AddrPort) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return slices.Contains(b.doubtful, netip.AddrPortFrom(server.Addr().Unmap(), server.Port()))
}

// certain leaves of what servers saw of a main socket that which is its NAT's
// mapping, or all where nobody else has answered.
func (b *switchboard) certain(seen []sighting) []sighting {
	sure := slices.DeleteFunc(slices.Clone(seen), func(s sighting) bool { return b.doubts(s.server) })
	if len(sure) == 0 {
		return seen
	}
	return sure
}

func (b *switchboard) setSTUN(addrs, doubtful []netip.AddrPort) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.doubtful = doubtful
	clear(b.stunAddrs)
	for _, a := range addrs {
		b.stunAddrs[a] = time.Now()
	}
}

// newEndpoint wraps conn; read starts its reader.
func newEndpoint(conn dgram.Conn, kind path.Kind, board *switchboard) *endpoint {
	return &endpoint{
		conn: conn, kind: kind, board: board, stun: stun.NewClient(conn.Write), rx: session.NewRx(),
		ended: make(chan struct{}), since: time.Now(), byAddr: make(map[netip.AddrPort]talkers),
	}
}

// read runs the reader until the conn is closed.
func (e *endpoint) read() {
	defer close(e.ended)
	_ = path.Read(e.conn, e.receive)
}

// close closes the conn and waits for the reader, unless the reader itself
// calls it.
func (e *endpoint) close() {
	_ = e.conn.Close()
}

func (e *endpoint) is4() bool { return e.conn.LocalAddr().Addr().Unmap().Is4() }

// receive routes one burst.
func (e *endpoint) receive(b dgram.Burst) {
	if e.owner != nil {
		e.receiveOwned(b)
		return
	}
	e.mu.RLock()
	at := e.byAddr[b.Addr]
	e.mu.RUnlock()
	if at.last != nil && !e.foreign(at.last, b) {
		p := path.Path{Conn: e.conn, Addr: b.Addr}
		at.last.Receive(e.rx, p, e.kind, b)
		if at.before != nil && e.rx.Foreign() {
			at.before.Receive(e.rx, p, e.kind, b)
		}
		return
	}
	for d := range b.All() {
		e.receiveOne(dgram.One(b.Addr, d))
	}
}

// foreign says whether b begins with a probe for another session than s: the
// peer has restarted and speaks from the same address.
func (e *endpoint) foreign(s *session.Session, b dgram.Burst) bool {
	switch proto.KindOf(b.Buf) {
	case proto.KindData:
		return false
	case proto.KindProbe, proto.KindProbeAnswer:
		h, err := proto.ParseProbeHeader(b.Buf[:min(len(b.Buf), b.Size)])
		return err == nil && h.Token != s.Token()
	}
	return true
}

// receiveOwned gives the owner everything but the relay's binds and the
// answers of STUN servers that we asked from here.
func (e *endpoint) receiveOwned(b dgram.Burst) {
	p := path.Path{Conn: e.conn, Addr: b.Addr}
	if e.leg != nil {
		if rest, ok := e.leg.Strip(b); ok {
			e.owner.Receive(e.rx, p, e.kind, rest)
		}
		return
	}
	if proto.KindOf(b.Buf) == proto.KindSTUN && e.board.answersSTUN(b.Addr) {
		for d := range b.All() {
			e.stun.Receive(b.Addr, d)
		}
		return
	}
	e.owner.Receive(e.rx, p, e.kind, b)
}

// receiveOne routes a datagram from an address that no session is known for.
func (e *endpoint) receiveOne(b dgram.Burst) {
	kind := proto.KindOf(b.Buf)
	if kind != proto.KindSTUN && e.quic.deliver(b) {
		return // from the coordinator; under a veil it looks like anything
	}
	switch kind {
	case proto.KindSTUN:
		e.stun.Receive(b.Addr, b.Buf)
	case proto.KindQUIC:
		e.board.dropped.stranger.Add(1)
	case proto.KindProbe, proto.KindProbeAnswer:
		e.receiveProbe(b)
	case proto.KindData:
		e.board.dropped.stale.Add(1)
	case proto.KindPrime: // the network between is shorter than its hop limit
	default:
		e.board.dropped.malformed.Add(1)
	}
}

// maxAddrs bounds the addresses that one socket routes without a token.
const maxAddrs = 4096

// receiveProbe finds the session by token. A genuine probe makes its address
// the session's, until the session ends.
func (e *endpoint) receiveProbe(b dgram.Burst) {
	h, err := proto.ParseProbeHeader(b.Buf)
	if err != nil {
		e.board.dropped.malformed.Add(1)
		return
	}
	s := e.board.session(h.Token)
	if s == nil {
		e.board.dropped.stranger.Add(1)
		return
	}
	if !s.Receive(e.rx, path.Path{Conn: e.conn, Addr: b.Addr}, e.kind, b) {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	select {
	case <-s.Done(): // forget has been here
	default:
		at, known := e.byAddr[b.Addr]
		if at.last != s && (known || len(e.byAddr) < maxAddrs) {
			e.byAddr[b.Addr] = talkers{last: s, before: at.last}
		}
	}
}

// forget ends the routes to a session that has ended.
func (e *endpoint) forget(s *session.Session) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for addr, at := range e.byAddr {
		switch s {
		case at.last:
			at = talkers{last: at.before}
		case at.before:
			at.before = nil
		default:
			continue
		}
		if e.byAddr[addr] = at; at.last == nil {
			delete(e.byAddr, addr)
		}
	}
}
