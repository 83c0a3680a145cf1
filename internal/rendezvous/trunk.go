package rendezvous

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/stream"
)

// trunk is a TLS connection of an agent, on which yamux carries its control
// stream, or its relay legs, or both.
type trunk struct {
	front   *front
	spot    *spot // where it came in
	key     Key
	remote  netip.AddrPort
	session *yamux.Session
	pulse   *pulse

	mu      sync.Mutex
	active  int // streams that are served
	control bool
	silence *time.Timer // ends a trunk without streams
}

// legQueue is how many bytes may wait for an agent that reads its relay leg
// slowly.
const legQueue = 512 << 10

// serveTrunk serves the streams of a connection until it ends.
func (s *Server) serveTrunk(ctx context.Context, t *trunk, conn *tls.Conn) {
	session, err := yamux.Server(stream.WholeFrames(conn), muxConfig(s.log))
	if err != nil {
		s.log.Error().Err(err).Msg("yamux") // a fault of muxConfig
		return
	}
	t.session, t.pulse = session, newPulse(session)
	t.silence = time.AfterFunc(knockWithin, func() {
		s.front.drops.silent.Add(1)
		t.stop()
	})
	defer t.silence.Stop()
	if !s.front.addTrunk(t) {
		t.stop()
		return
	}
	defer s.front.removeTrunk(t)
	var streams sync.WaitGroup
	streams.Go(t.pulse.run)
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			break
		}
		if session.NumStreams() > maxStreams {
			s.front.drops.streams.Add(1)
			break
		}
		t.began()
		streams.Go(func() {
			defer t.finished()
			t.serve(ctx, stream)
		})
	}
	_ = session.Close()
	streams.Wait()
}

func (t *trunk) began() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.active++
	t.silence.Stop()
}

func (t *trunk) finished() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.active--; t.active == 0 {
		t.silence.Reset(knockWithin)
	}
}

// stop cuts the connection. A control stream's end says why before that.
func (t *trunk) stop() { _ = t.session.Close() }

// takesControl says whether a new stream may be the control stream: a
// connection has one.
func (t *trunk) takesControl() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	had := t.control
	t.control = true
	return !had
}

func (t *trunk) hasControl() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.control
}

// serve serves one stream by its first byte.
func (t *trunk) serve(ctx context.Context, stream *yamux.Stream) {
	defer func() { _ = stream.Close() }()
	kind, err := readKind(stream)
	switch {
	case err != nil:
	case kind == streamLeg:
		t.leg(stream)
	case kind == streamSplice:
		t.splice(stream)
	case kind == streamControl && t.takesControl():
		t.converse(ctx, stream)
	default:
		t.front.drops.streams.Add(1)
		t.stop()
	}
}

// converse is a control connection, until it ends; the trunk ends with it.
func (t *trunk) converse(ctx context.Context, stream *yamux.Stream) {
	s := t.front.server
	over := &overTLS{pulse: t.pulse, stream: stream, at: look{remote: t.remote, transport: wordTLS}, tasks: &s.tasks}
	a := &agentConn{
		server: s, carrier: over, spot: t.spot, key: t.key, remote: t.remote,
		open: func(context.Context) (controlStream, error) { return stream, nil },
	}
	s.conns.add(a)
	a.run(ctx)
	<-t.session.CloseChan() // its last words may be on their way
}

// leg hands a relay leg's datagrams to the relay, until the stream ends. Only
// members have legs, so strangers can't make the coordinator hold memory.
func (t *trunk) leg(stream net.Conn) {
	s := t.front.server
	if _, err := s.registry.ByKey(t.key); err != nil {
		t.front.drops.legs.Add(1)
		return
	}
	conn := dgram.NewStream(stream, t.remote, dgram.StreamOptions{Queue: legQueue})
	t.front.legs.Add(1)
	_ = path.Read(conn, func(b dgram.Burst) { // it ends with the stream, without an error
		if !s.relay.Receive(conn, b) {
			t.front.drops.datagrams.Add(uint64(b.Len()))
		}
	})
	_ = conn.Close()
	s.relay.Gone(conn, conn.RemoteAddr())
	t.front.legs.Add(-1)
	t.front.drops.queue.Add(conn.Dropped())
	t.front.drops.malformed.Add(conn.Malformed())
}

func (f *front) addTrunk(t *trunk) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return false
	}
	f.trunks[t] = struct{}{}
	return true
}

func (f *front) removeTrunk(t *trunk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.trunks, t)
}
