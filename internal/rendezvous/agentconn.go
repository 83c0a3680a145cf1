package rendezvous

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/sources"
	"rendezvous/proto"
)

// Bounds of a control connection on the coordinator's side.
const (
	knockWithin = 20 * time.Second // until a new connection has enrolled or registered
	maxOutbox   = 256              // messages that wait for an agent that does not read
	readBuffer  = 512              // bytes; a keepalive costs none, and most messages fit
)

// agentConn is a control connection, seen from the coordinator.
type agentConn struct {
	server *Server
	carrier
	open   func(context.Context) (controlStream, error) // waits for the agent to do so
	spot   *spot                                        // where it came in
	key    Key                                          // of the client's certificate
	remote netip.AddrPort                               // where it came from
	lean   func(now time.Time) (*proto.Leaned, error)   // goes on without QUIC; nil where there is none

	reader reader
	said   atomic.Uint64 // messages that came

	mu     sync.Mutex // for what follows
	stream written
	outbox []*proto.ToAgent
	busy   bool // a goroutine writes what is in the outbox
	closed bool
}

// reader is what the goroutine alone uses that reads what the agent says.
type reader struct {
	requests sources.Bucket
	flood    sources.Bucket
	known    bool               // enrolled or registered
	behind   func()             // what is to leave behind the answer
	refused  map[publicKey]bool // public ports, when it asked last
}

// run is the conversation with the agent, until the connection ends.
func (a *agentConn) run(ctx context.Context) {
	err := a.converse(ctx)
	a.server.departed(a, err)
}

func (a *agentConn) converse(ctx context.Context) error {
	knock, cancel := context.WithTimeout(ctx, knockWithin)
	stream, err := a.open(knock)
	cancel()
	if err != nil {
		return a.close(closeSilent, "no control stream was opened", err)
	}
	a.mu.Lock()
	a.stream = stream
	a.mu.Unlock()
	if err := stream.SetReadDeadline(time.Now().Add(knockWithin)); err != nil {
		return a.close(closeDone, "", err)
	}
	r := bufio.NewReaderSize(stream, readBuffer)
	for {
		var m proto.ToCoordinator
		if err := proto.ReadMessage(r, &m); err != nil {
			if a.ended().Err() == nil && !isTimeout(err) && !errors.Is(err, io.EOF) {
				a.server.drops.badMessage.Add(1)
			}
			return a.close(closeProtocol, "what came is no control message", err)
		}
		if err := a.take(time.Now(), &m); err != nil {
			return err
		}
		if a.reader.known {
			a.reader.known = false
			if err := stream.SetReadDeadline(time.Time{}); err != nil {
				return a.close(closeDone, "", err)
			}
		}
	}
}

// take does what one message asks. An error ends the connection.
func (a *agentConn) take(now time.Time, m *proto.ToCoordinator) error {
	a.said.Add(1)
	if !a.reader.flood.Take(now, rateFlood) {
		a.server.drops.flood.Add(1)
		return a.close(closeProtocol, "far too many requests", errors.New("too many requests"))
	}
	a.answer(now, m)
	return nil
}

// answer does what the agent asks and sends what that brings it.
func (a *agentConn) answer(now time.Time, m *proto.ToCoordinator) {
	var out messages
	var err error
	if a.reader.requests.Take(now, rateRequests) {
		out, err = a.server.serve(now, a, m)
	} else {
		err = refusef(proto.Code_CODE_LIMITED, "too many requests of this agent; try again in some seconds")
	}
	if err != nil {
		code := asCode(err)
		a.server.refused(a, code, err)
		out = messages{{Body: &proto.ToAgent_Error{Error: &proto.Error{Code: code.Code, Text: code.Text}}}}
	}
	for i, each := range out {
		if i == 0 {
			if m.GetId() == 0 {
				continue // it asked for no answer
			}
			each.Id = m.GetId()
		}
		a.send(each)
	}
	if a.reader.behind != nil {
		a.reader.behind()
		a.reader.behind = nil
	}
}

// send queues m without blocking. An agent that does not read what it is sent
// loses its connection.
func (a *agentConn) send(m *proto.ToAgent) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed || a.stream == nil:
		return
	case len(a.outbox) >= maxOutbox:
		a.closed = true
		a.server.drops.slow.Add(1)
		a.server.tasks.Go(func() { _ = a.end(closeSlow, "the agent does not read") })
		return
	}
	a.outbox = append(a.outbox, m)
	if !a.busy {
		a.busy = true
		// A goroutine only while there is something to write: ten thousand
		// idle agents need none.
		a.server.tasks.Go(a.drain)
	}
}

// hasRoom says whether the agent keeps up with what it is sent: what may as
// well leave later should wait where it does not.
func (a *agentConn) hasRoom() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.outbox) < maxOutbox/4
}

// drain writes the outbox until it is empty or the connection is gone.
func (a *agentConn) drain() {
	for {
		a.mu.Lock()
		if len(a.outbox) == 0 || a.closed {
			a.outbox, a.busy = nil, false
			a.mu.Unlock()
			return
		}
		m := a.outbox[0]
		a.outbox = a.outbox[1:]
		a.mu.Unlock()
		if err := proto.WriteMessage(a.stream, m); err != nil {
			a.mu.Lock()
			a.closed = true
			a.mu.Unlock()
		}
	}
}

// close ends the connection and gives why.
func (a *agentConn) close(code quic.ApplicationErrorCode, text string, why error) error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	return errors.Join(why, a.end(code, text))
}

// expel tells the agent why it must go, and closes its connection.
func (a *agentConn) expel(why *CodeError) {
	_ = a.close(closeCode+quic.ApplicationErrorCode(why.Code), why.Text, why)
}

// ask wants a sign of life: a message without a body asks for nothing, but what
// carries it is acknowledged.
func (a *agentConn) ask() {
	a.send(&proto.ToAgent{})
	a.carrier.ask()
}

// heard is another number with each sign of life.
func (a *agentConn) heard() uint64 { return a.said.Load() + a.look().heard }

// roundTrip is the estimate that introductions are timed by.
func (a *agentConn) roundTrip() time.Duration { return a.look().roundTrip }
