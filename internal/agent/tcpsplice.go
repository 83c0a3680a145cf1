package agent

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"rendezvous/internal/path"
	"rendezvous/internal/quicflow"
	"rendezvous/internal/relay"
	"rendezvous/internal/stream"
	"rendezvous/proto"
)

// splices are the byte streams with a peer through the relay, where both legs
// are over TLS. There QUIC's packets would wait in queues that drop what gets
// old, on two TCP connections; a stream through the relay waits instead. Inside
// is TLS between the agents, since the relay sees its bytes.
type splices struct {
	of      *connections
	refused atomic.Uint64 // that the peer asked for, and which can't be
	steady  steadyPath

	mu     sync.Mutex
	rest   time.Time // after a failure, until which none is tried
	busy   map[path.Kinds]bool
	asking map[uint64]bool // that the peer asked for and are being made
	open   map[*yamux.Session]struct{}
	closed bool
}

const (
	// spliceWithin is how long one may take: a TLS connection to the
	// coordinator, the peer's, and TLS between both.
	spliceWithin = 6 * time.Second
	// spliceRest is how long QUIC stays after a failure: the peer's leg is no
	// stream, or the coordinator or the peer is of an earlier version.
	spliceRest = time.Minute
	// mostSplices bounds those that the peer may have asked for at once, and
	// those that are open.
	mostAsked, mostSplices = 4, 32
)

// The asking frame may be lost: it goes out so often, and so far apart.
const (
	spliceAsks = 4
	spliceAsk  = 700 * time.Millisecond
)

var errNoSplice = errors.New("the best path is no relay over TLS")

// leg is the leg over TLS that a path takes, nil if it takes none.
func (as *association) legOverTLS(match func(e *endpoint) bool) *endpoint {
	as.mu.Lock()
	defer as.mu.Unlock()
	for _, e := range as.sockets.legs {
		if e.kind == path.RelayTLS && e.door != "" && match(e) {
			return e
		}
	}
	return nil
}

// wanted says whether data has taken a leg over TLS for a while, and nothing
// speaks against a splice.
func (s *splices) wanted(now time.Time, as *association, only path.Kinds) bool {
	if as == nil || s.of.p.a.cfg.Dialers.Splice == nil {
		return false
	}
	at, kind := as.Leads(only)
	if !s.steady.on(now, only, at, kind == path.RelayTLS) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.busy[only] && !now.Before(s.rest)
}

// begin makes a carrier through the relay.
func (s *splices) begin(ctx context.Context, only path.Kinds) (carrierLink, stream.Carrier, error) {
	s.mu.Lock()
	if s.closed || s.busy[only] {
		s.mu.Unlock()
		return nil, nil, errNoSplice
	}
	if s.busy == nil {
		s.busy = make(map[path.Kinds]bool)
	}
	s.busy[only] = true
	s.mu.Unlock()
	session, at, err := s.dial(ctx, only)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.busy, only)
	if err != nil {
		s.rest = time.Now().Add(spliceRest)
		return nil, nil, err
	}
	return spliceLink{session, s.of, only, at}, stream.OverYamux(session), nil
}

func (s *splices) dial(ctx context.Context, only path.Kinds) (*yamux.Session, path.Path, error) {
	ctx, cancel := context.WithTimeout(ctx, spliceWithin)
	defer cancel()
	as := s.of.p.association()
	if as == nil {
		return nil, path.Path{}, errNoSplice
	}
	at, kind := as.Leads(only)
	e := as.legOverTLS(func(e *endpoint) bool { return kind == path.RelayTLS && e.conn == at.Conn })
	if e == nil {
		return nil, path.Path{}, errNoSplice
	}
	number, allocation := relay.Number(), e.leg.Allocation()
	go func() {
		for range spliceAsks {
			as.SendFrame(&proto.Frame{Body: &proto.Frame_Splice{Splice: &proto.Splice{Allocation: allocation[:], Number: number, Rule: uint32(only)}}})
			if !path.Wait(ctx, spliceAsk) {
				return
			}
		}
	}()
	session, err := s.join(ctx, e, number, true)
	return session, at, err
}

// join makes our end of a splice.
func (s *splices) join(ctx context.Context, e *endpoint, number uint64, first bool) (*yamux.Session, error) {
	a := s.of.p.a
	cert, err := a.id.Certificate()
	if err != nil {
		return nil, err
	}
	conn, err := a.cfg.Dialers.Splice(ctx, e.door, a.cfg.State.Coordinator().Pin, cert, e.leg, number)
	if err != nil {
		return nil, err
	}
	session, err := s.secure(ctx, conn, cert, first)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return session, nil
}

// secure shakes hands with the peer, and only with it, in what the relay
// carries.
func (s *splices) secure(ctx context.Context, conn net.Conn, cert tls.Certificate, first bool) (*yamux.Session, error) {
	config := quicflow.TLSConfig(cert, func() ed25519.PublicKey { return s.of.p.member().Key })
	ends, mux := tls.Server, yamux.Server
	if first {
		ends, mux = tls.Client, yamux.Client
	}
	secured := ends(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if got := secured.ConnectionState().NegotiatedProtocol; got != quicflow.ALPN {
		return nil, errors.New("the peer speaks another protocol in a stream through the relay")
	}
	session, err := mux(stream.WholeFrames(secured), stream.YamuxConfig())
	if err != nil {
		return nil, err
	}
	if !s.keep(session) {
		return nil, errors.Join(stream.ErrClosed, session.Close())
	}
	return session, nil
}

// keep notes a session to close with all others; false where there are too
// many, or none may be any more.
func (s *splices) keep(session *yamux.Session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.open) >= mostSplices {
		return false
	}
	if s.open == nil {
		s.open = make(map[*yamux.Session]struct{})
	}
	s.open[session] = struct{}{}
	s.of.p.a.tasks.start(func(ctx context.Context) {
		select {
		case <-session.CloseChan():
		case <-ctx.Done():
			_ = session.Close()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, session)
	})
	return true
}

// asked joins a splice that the peer makes for its clients, if our leg of the
// allocation is over TLS too. It runs on a reader's goroutine.
func (s *splices) asked(as *association, m *proto.Splice) {
	only, number := path.Kinds(m.GetRule()), m.GetNumber()
	e := as.legOverTLS(func(e *endpoint) bool {
		at := e.leg.Allocation()
		return string(at[:]) == string(m.GetAllocation())
	})
	if e == nil || m.GetRule() > uint32(path.AllKinds) || !only.Allows(path.RelayTLS) || s.of.p.a.cfg.Dialers.Splice == nil {
		s.refused.Add(1)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed || s.asking[number]:
		return
	case len(s.asking) >= mostAsked:
		s.refused.Add(1)
		return
	}
	if s.asking == nil {
		s.asking = make(map[uint64]bool)
	}
	s.asking[number] = true
	s.of.p.a.tasks.start(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, spliceWithin)
		defer cancel()
		session, err := s.join(ctx, e, number, false)
		if err != nil {
			s.of.p.a.cfg.Log.Debug().Str("peer", s.of.p.name).Err(err).Msg("a stream through the relay that the peer asked for")
		} else {
			s.of.in.UseFor(only, stream.OverYamux(session))
		}
		<-ctx.Done() // the frame that asked may come again until then
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.asking, number)
	})
}

// close ends all.
func (s *splices) close() {
	s.mu.Lock()
	s.closed = true
	all := slices.Collect(maps.Keys(s.open))
	s.mu.Unlock()
	for _, session := range all {
		_ = session.Close()
	}
}

// spliceLink is a splice as a carrier of ours.
type spliceLink struct {
	session *yamux.Session
	of      *connections
	only    path.Kinds
	at      path.Path
}

func (l spliceLink) ended() bool { return l.session.IsClosed() }
func (l spliceLink) close()      { _ = l.session.Close() }

// fits is false as soon as data takes another path.
func (l spliceLink) fits(time.Time) bool {
	as := l.of.p.association()
	if as == nil {
		return true // there is nothing better
	}
	at, _ := as.Leads(l.only)
	return at == l.at
}
