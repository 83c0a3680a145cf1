package rendezvous

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/dgram"
	"rendezvous/internal/lean"
	"rendezvous/proto"
)

// leanTable is the lean connections on the coordinator's side.
type leanTable struct {
	server *Server
	ids    *connIDs
	secret [32]byte // of resets

	mu  sync.RWMutex
	all map[lean.ID]*leanAgent
}

func newLeanTable(s *Server, key ed25519.PrivateKey) (*leanTable, error) {
	ids, err := newConnIDs(key, "lean connection IDs")
	if err != nil {
		return nil, err
	}
	return &leanTable{server: s, ids: ids, secret: derive(key, "lean reset"), all: make(map[lean.ID]*leanAgent)}, nil
}

// reset proves that we have made the ID. It is the same after a restart.
func (t *leanTable) reset(id lean.ID) (out lean.Token) {
	h := hmac.New(sha256.New, t.secret[:])
	h.Write(id[:])
	copy(out[:], h.Sum(nil))
	return out
}

// leanAgent is an agent on a lean connection. While the agent is silent it has
// no goroutine, no timer and no buffer.
type leanAgent struct {
	*leanEnd
	conn *agentConn
	id   lean.ID
	made time.Time

	inbox  sync.Mutex // for what follows
	came   time.Time  // the last datagram
	known  bool       // enrolled or registered
	unread []byte
	busy   bool // a goroutine does what is in unread
}

// begin makes the lean connection of an agent that has shown its key on a QUIC
// connection.
func (t *leanTable) begin(now time.Time, over *quic.Conn, in *socket, was *agentConn) (*proto.Leaned, error) {
	made, err := t.ids.GenerateConnectionID()
	if err != nil {
		return nil, err
	}
	id := lean.ID(made.Bytes())
	other, own, err := leanKeys(over, id)
	if err != nil {
		return nil, err
	}
	at := was.look()
	link, err := lean.New(id, own, other, at.roundTrip)
	if err != nil {
		return nil, err
	}
	if !t.server.door.enterLean() {
		return nil, refusef(proto.Code_CODE_LIMITED, "the coordinator has as many connections as it takes")
	}
	a := &leanAgent{id: id, made: now, came: now, leanEnd: newLeanEnd(link, at.remote, at.transport, in.sendLean)}
	a.conn = &agentConn{server: t.server, carrier: a, spot: was.spot, key: was.key, remote: at.remote, stream: leanStream{a.leanEnd}}
	t.mu.Lock()
	t.all[id] = a
	t.mu.Unlock()
	t.server.conns.add(a.conn)
	reset := t.reset(id)
	return &proto.Leaned{Id: id[:], Token: reset[:]}, nil
}

// leanStream is the writing half of a control stream; what comes is not read
// from it, but handed to the agentConn.
type leanStream struct{ *leanEnd }

// sendLean writes a datagram; what the socket does not take is lost, as on the
// way.
func (s *socket) sendLean(to netip.AddrPort, d []byte) { _ = s.veil.Write(dgram.One(to, d)) }

// receive takes what is for one of the lean connections, and says whether it
// was.
func (t *leanTable) receive(now time.Time, in *socket, from netip.AddrPort, d []byte) bool {
	id, ok := lean.IDOf(d)
	if !ok {
		return false
	}
	t.mu.RLock()
	a := t.all[id]
	t.mu.RUnlock()
	if a != nil {
		a.take(now, in, from, d)
		return true
	}
	if !t.ids.made(id[:]) {
		return false
	}
	// After a restart all agents are due one. Who gets none asks again, which
	// costs us less than a handshake that has to wait.
	if t.server.door.busy() {
		return true
	}
	if reset := lean.Reset(d, t.reset(id)); reset != nil {
		in.sendLean(from, reset)
	}
	return true
}

// take takes a datagram.
func (a *leanAgent) take(now time.Time, in *socket, from netip.AddrPort, d []byte) {
	if a.note(now, in, from, d) {
		a.conn.server.tasks.Go(a.work)
	}
	if a.ctx.Err() != nil {
		a.conn.server.lean.drop(a)
	}
}

// note puts what a datagram brought behind what is unread, and says whether
// there is work that nobody does.
func (a *leanAgent) note(now time.Time, in *socket, from netip.AddrPort, d []byte) (work bool) {
	a.inbox.Lock()
	defer a.inbox.Unlock()
	if len(a.unread) > 2*proto.MaxMessage {
		return false // it is sent again
	}
	r, ok := a.receive(now, from, in.sendLean, d)
	if !ok {
		a.conn.server.drops.lean.Add(1)
		return false
	}
	if r.Newer {
		a.came = now
	}
	a.unread = append(a.unread, r.Bytes...)
	work = len(a.unread) > 0 && !a.busy
	a.busy = a.busy || work
	return work
}

// next takes a message off what came; none when it is not whole yet.
func (a *leanAgent) next() (m []byte, bad bool) {
	a.inbox.Lock()
	defer a.inbox.Unlock()
	size, n := binary.Uvarint(a.unread)
	switch {
	case n < 0 || size > proto.MaxMessage:
		return nil, true
	case n == 0 || uint64(len(a.unread)-n) < size:
		a.busy = false
		return nil, false
	}
	m = a.unread[:n+int(size)]
	if a.unread = a.unread[len(m):]; len(a.unread) == 0 {
		a.unread = nil
	}
	return m, false
}

// work does what has come, one message after the other.
func (a *leanAgent) work() {
	for a.ctx.Err() == nil {
		raw, bad := a.next()
		if raw == nil && !bad {
			return
		}
		var m proto.ToCoordinator
		if bad || proto.ReadMessage(bufio.NewReader(bytes.NewReader(raw)), &m) != nil {
			a.conn.server.drops.badMessage.Add(1)
			_ = a.conn.close(closeProtocol, "what came is no control message", nil)
			return
		}
		if a.conn.take(time.Now(), &m) != nil {
			return
		}
		if a.conn.reader.known {
			a.inbox.Lock()
			a.known = true
			a.inbox.Unlock()
		}
	}
}

// end is that of carrier.
func (a *leanAgent) end(code quic.ApplicationErrorCode, text string) error {
	err := a.leanEnd.end(code, text)
	a.conn.server.lean.drop(a)
	return err
}

// drop takes a connection that has ended off the table.
func (t *leanTable) drop(a *leanAgent) {
	t.mu.Lock()
	_, there := t.all[a.id]
	delete(t.all, a.id)
	t.mu.Unlock()
	if there {
		t.server.door.leaveLean()
		t.server.tasks.Go(func() { t.server.departed(a.conn, context.Cause(a.ctx)) })
	}
}

// expire ends those that have been silent for too long, and strangers.
func (t *leanTable) expire(now time.Time) {
	t.mu.RLock()
	var gone []*leanAgent
	for _, a := range t.all {
		if a.over(now) {
			gone = append(gone, a)
		}
	}
	t.mu.RUnlock()
	for _, a := range gone {
		a.finish(&quic.IdleTimeoutError{})
		t.drop(a)
	}
}

// over says whether the connection is to end.
func (a *leanAgent) over(now time.Time) bool {
	a.inbox.Lock()
	defer a.inbox.Unlock()
	return a.ctx.Err() != nil || now.Sub(a.came) >= idleAfter || !a.known && now.Sub(a.made) >= knockWithin
}
