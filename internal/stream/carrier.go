package stream

import (
	"context"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/quic-go/quic-go"
)

// Carrier carries streams between the two ends of one Conns each. Both ends may
// open streams.
type Carrier interface {
	// Open opens a stream; it waits as long as the peer allows no more.
	Open(ctx context.Context) (Stream, error)
	Accept(ctx context.Context) (Stream, error)
	// Done is closed when the carrier has ended, and all its streams with it.
	Done() <-chan struct{}
	Close() error
}

// Stream is one stream of a carrier, reliable and in order.
type Stream interface {
	io.ReadWriter
	// CloseWrite ends our direction; what was written still arrives.
	CloseWrite() error
	// Close gives up both directions. Reads and writes that wait return.
	Close() error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// Windows of the carriers that we make: what may be on its way at once. 16 MiB
// are 1.3 Gbit/s at a round trip of 100 ms.
const (
	firstStreamWindow = 512 << 10
	mostStreamWindow  = 16 << 20
	mostCarrierWindow = 64 << 20
	mostStreams       = 8192 // that the other end may have open at once

	carrierKeepAlive = 15 * time.Second
	carrierIdle      = 30 * time.Second
	muxWriteWithin   = 30 * time.Second
	muxCloseWithin   = 30 * time.Second
)

// QUICConfig is for a connection that OverQUIC gets. The caller sets what the
// path below demands, such as the packet size.
func QUICConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           5 * time.Second,
		MaxIdleTimeout:                 carrierIdle,
		KeepAlivePeriod:                carrierKeepAlive,
		InitialStreamReceiveWindow:     firstStreamWindow,
		MaxStreamReceiveWindow:         mostStreamWindow,
		InitialConnectionReceiveWindow: firstStreamWindow * 2,
		MaxConnectionReceiveWindow:     mostCarrierWindow,
		MaxIncomingStreams:             mostStreams,
		MaxIncomingUniStreams:          -1,
	}
}

// YamuxConfig is for a session that OverYamux gets. The caller may set Logger.
func YamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = 1024
	c.KeepAliveInterval = carrierKeepAlive
	c.ConnectionWriteTimeout = muxWriteWithin
	c.MaxStreamWindowSize = mostStreamWindow / 4 // yamux grows it at once, and holds it in memory
	c.StreamOpenTimeout = muxWriteWithin
	c.StreamCloseTimeout = muxCloseWithin
	c.LogOutput = io.Discard
	return c
}

// The codes that QUIC carries when we end a stream or a connection; the peer
// attaches no meaning to them.
const (
	codeStream  quic.StreamErrorCode      = 0
	codeCarrier quic.ApplicationErrorCode = 0
)

// OverQUIC makes a carrier of a QUIC connection, which it owns from now on.
func OverQUIC(conn *quic.Conn) Carrier { return quicCarrier{conn} }

type quicCarrier struct{ conn *quic.Conn }

// Open is Carrier's.
func (q quicCarrier) Open(ctx context.Context) (Stream, error) {
	s, err := q.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	return &quicStream{Stream: s}, nil
}

// Accept is Carrier's.
func (q quicCarrier) Accept(ctx context.Context) (Stream, error) {
	s, err := q.conn.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return &quicStream{Stream: s}, nil
}

// Done is Carrier's.
func (q quicCarrier) Done() <-chan struct{} { return q.conn.Context().Done() }

// Close is Carrier's.
func (q quicCarrier) Close() error { return q.conn.CloseWithError(codeCarrier, "") }

type quicStream struct {
	*quic.Stream
	said atomic.Bool // all, and it must still arrive
}

// CloseWrite is Stream's.
func (s *quicStream) CloseWrite() error {
	s.said.Store(true)
	return s.Stream.Close()
}

// Close is Stream's.
func (s *quicStream) Close() error {
	s.CancelRead(codeStream)
	if !s.said.Load() {
		s.CancelWrite(codeStream)
	}
	return nil
}

// OverYamux makes a carrier of a session of yamux, which it owns from now on.
func OverYamux(session *yamux.Session) Carrier { return yamuxCarrier{session} }

type yamuxCarrier struct{ session *yamux.Session }

// Open is Carrier's. yamux waits only where a thousand of our streams are not
// accepted yet.
func (y yamuxCarrier) Open(context.Context) (Stream, error) {
	s, err := y.session.OpenStream()
	if err != nil {
		return nil, err
	}
	return yamuxStream{s}, nil
}

// Accept is Carrier's.
func (y yamuxCarrier) Accept(ctx context.Context) (Stream, error) {
	s, err := y.session.AcceptStreamWithContext(ctx)
	if err != nil {
		return nil, err
	}
	return yamuxStream{s}, nil
}

// Done is Carrier's.
func (y yamuxCarrier) Done() <-chan struct{} { return y.session.CloseChan() }

// Close is Carrier's.
func (y yamuxCarrier) Close() error { return y.session.Close() }

type yamuxStream struct{ *yamux.Stream }

// CloseWrite is Stream's: what yamux calls Close leaves the other direction
// open.
func (s yamuxStream) CloseWrite() error { return s.Stream.Close() }

// Close is Stream's. yamux knows no way to refuse what still comes; it is
// dropped when the peer closes too, or after muxCloseWithin.
func (s yamuxStream) Close() error {
	_ = s.SetReadDeadline(time.Now().Add(-time.Second))
	return s.Stream.Close()
}
