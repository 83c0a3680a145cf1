package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/hashicorp/yamux"

	"rendezvous/internal/relay"
	"rendezvous/proto"
)

// Splice joins a stream of bytes with the other leg's of an allocation, through
// the coordinator at HOST:PORT, and waits until that is there too. number names
// it, on both sides. It has a connection of its own, which ends with it: bulk
// data would delay the legs'.
func Splice(ctx context.Context, at string, pin [32]byte, cert tls.Certificate, leg *relay.Leg, number uint64) (net.Conn, error) {
	return standardTLS.Splice(ctx, at, pin, cert, leg, number)
}

// Splice is like the function of that name.
func (d *TLSDialer) Splice(ctx context.Context, at string, pin [32]byte, cert tls.Certificate, leg *relay.Leg, number uint64) (net.Conn, error) {
	m, err := d.dial(ctx, at, pin, cert)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = m.session.Close() })
	go m.pulse.run() // ends with the session
	stream, err := m.splice(leg, number)
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("join a stream through the relay at %s over TLS: %w; is the peer's leg over TLS too?", at, err), m.session.Close())
	}
	return &spliceConn{stream, m.session}, nil
}

func (m *muxed) splice(leg *relay.Leg, number uint64) (*yamux.Stream, error) {
	stream, err := m.session.OpenStream()
	if err != nil {
		return nil, err
	}
	if _, err := stream.Write(append([]byte{streamSplice}, leg.Splice(number)...)); err != nil {
		return nil, err
	}
	if err := stream.SetReadDeadline(time.Now().Add(spliceMeet)); err != nil {
		return nil, err
	}
	var bound [proto.BindSize]byte
	if _, err := io.ReadFull(stream, bound[:]); err != nil {
		return nil, err
	}
	return stream, errors.Join(leg.Spliced(number, bound[:]), stream.SetReadDeadline(time.Time{}))
}

// spliceConn is a splice's stream, with which its connection ends.
type spliceConn struct {
	*yamux.Stream
	session *yamux.Session
}

// Close is net.Conn's.
func (c *spliceConn) Close() error { return c.session.Close() }

// CloseWrite ends our direction.
func (c *spliceConn) CloseWrite() error { return c.Stream.Close() }
