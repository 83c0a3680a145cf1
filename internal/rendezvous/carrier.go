package rendezvous

import (
	"context"
	"errors"
	"io"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/dgram"
)

// controlStream carries the messages of a control connection, both ways.
type controlStream interface {
	written
	io.Reader
	SetReadDeadline(t time.Time) error
}

// written is what goes out of it.
type written interface {
	io.Writer
	SetWriteDeadline(t time.Time) error
}

// carrier is what a control stream stands on: a QUIC connection, or yamux in
// TLS. Both ends use it.
type carrier interface {
	// ended ends with the connection. Its cause is what closeReason reads.
	ended() context.Context
	// end closes the connection and lets the other end know why, without
	// waiting for it.
	end(code quic.ApplicationErrorCode, text string) error
	look() look
	// ask has the other end show that it is there, which look tells, beyond
	// what a message on the stream does. It does not wait.
	ask()
}

// look is what is known of a connection at an instant.
type look struct {
	remote    netip.AddrPort // the zero one behind a proxy
	roundTrip time.Duration
	transport string // the word for status
	heard     uint64 // another number with each sign of life
}

// overQUIC is a QUIC connection as a carrier.
type overQUIC struct {
	conn *quic.Conn
	word string
}

func (q overQUIC) ended() context.Context { return q.conn.Context() }

func (q overQUIC) end(code quic.ApplicationErrorCode, text string) error {
	return q.conn.CloseWithError(code, text)
}

func (q overQUIC) look() look {
	stats := q.conn.ConnectionStats()
	return look{dgram.AddrOf(q.conn.RemoteAddr()), roundTrip(stats), q.word, stats.PacketsReceived}
}

// ask is that of carrier: QUIC acknowledges what a stream brings.
func (q overQUIC) ask() {}

// isTimeout says whether err tells of a connection that fell silent, rather
// than of one that brought nonsense.
func isTimeout(err error) bool {
	var idle *quic.IdleTimeoutError
	return errors.As(err, &idle)
}
