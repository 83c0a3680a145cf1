package share

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pires/go-proxyproto"

	"rendezvous/internal/dgram"
)

// dialWithin is how long a backend may take to answer. It is on this host, or
// near it.
const dialWithin = 5 * time.Second

var errNoStreams = errors.New("this program opens no TCP connections here")

// Carry takes a connection that was looked at to its backend, and returns when
// both directions have ended, or the client's conn was closed. It closes conn
// where there is nobody.
func (s *Sharing) Carry(conn net.Conn, l Look) {
	from := dgram.AddrOf(conn.RemoteAddr())
	if !s.conns.Enter(from.Addr()) {
		s.count.refusedTCP.Add(1)
		dgram.Reset(conn)
		return
	}
	defer s.conns.Leave(from.Addr())
	far, err := s.connect(l.to)
	if err != nil {
		s.count.backendTCP.Add(1)
		l.to.failed("tcp", l.to.TCP.String(), err)
		dgram.Reset(conn)
		return
	}
	defer func() { _ = far.Close() }()
	l.to.works("tcp")
	l.to.conns.Add(1)
	l.to.total.Add(1)
	defer l.to.conns.Add(-1)
	first := l.Kept
	if l.to.Proxy {
		first = append(header(conn), first...)
	}
	if conn.SetDeadline(time.Time{}) != nil {
		return
	}
	if _, err := far.Write(first); err != nil {
		dgram.Reset(conn)
		return
	}
	both(conn, far)
}

func (s *Sharing) connect(to *backend) (net.Conn, error) {
	if s.dial == nil {
		return nil, errNoStreams
	}
	ctx, cancel := context.WithTimeout(context.Background(), dialWithin)
	defer cancel()
	return s.dial(ctx, to.TCP)
}

// header tells a backend who the client is, and which address it came to (the
// PROXY protocol's section 2.2).
func header(conn net.Conn) []byte {
	b, err := proxyproto.HeaderProxyFromAddrs(2, conn.RemoteAddr(), conn.LocalAddr()).Format()
	if err != nil {
		return nil // only of an address that is none of TCP's
	}
	return b
}

// both copies until each direction has ended. An end is passed on as one, and a
// failure ends both. The kernel moves the bytes, where it can.
func both(a, b net.Conn) {
	var other sync.WaitGroup
	other.Go(func() { oneWay(a, b) })
	oneWay(b, a)
	other.Wait()
}

func oneWay(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(interface{ CloseWrite() error }); ok && err == nil {
		if half.CloseWrite() == nil {
			return
		}
	}
	dgram.Reset(to)
	dgram.Reset(from)
}
