package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"rendezvous/internal/path"
	"rendezvous/proto"
)

// attempt is one try to reach the coordinator.
type attempt struct {
	over  proto.Transport
	addr  netip.AddrPort // over UDP and fake TCP
	at    string         // over TLS: HOST:PORT
	after time.Duration  // since the race began
	brief bool           // a long shot, given up sooner
}

// same is a without when and how long: what was tried.
func (a attempt) same() attempt {
	a.after, a.brief = 0, false
	return a
}

// port is the coordinator's.
func (a attempt) port() uint16 {
	if a.over == proto.Transport_TRANSPORT_TLS {
		return portOf(a.at)
	}
	return a.addr.Port()
}

// overName is a transport in words.
func overName(t proto.Transport) string {
	switch t {
	case proto.Transport_TRANSPORT_TLS:
		return "TLS"
	case proto.Transport_TRANSPORT_FAKE_TCP:
		return "fake TCP"
	}
	return "UDP"
}

const (
	dialWithin  = 5 * time.Second
	briefWithin = 3 * time.Second
)

// overWord is a transport in one word, for status.
func overWord(t proto.Transport) string {
	switch t {
	case proto.Transport_TRANSPORT_TLS:
		return "tcp"
	case proto.Transport_TRANSPORT_FAKE_TCP:
		return "faketcp"
	}
	return "udp"
}

// reached is a control connection, and how it was made.
type reached struct {
	*Connection
	how  attempt
	line *line
}

// where is the coordinator's address, or what a proxy was asked for.
func (d *reached) where() string {
	if d.Addr.IsValid() {
		return d.Addr.String()
	}
	return d.how.at
}

// line counts the calls that wait for an answer, and gives back what the
// connection stands on when it is closed.
type line struct {
	ControlConn
	calls   atomic.Int32
	once    sync.Once
	release func()
}

// Call is ControlConn's.
func (h *line) Call(ctx context.Context, m *proto.ToCoordinator) (*proto.ToAgent, error) {
	h.calls.Add(1)
	defer h.calls.Add(-1)
	return h.ControlConn.Call(ctx, m)
}

// Close is ControlConn's.
func (h *line) Close() error {
	err := h.ControlConn.Close()
	h.once.Do(h.release)
	return err
}

// try makes one attempt.
func (l *link) try(ctx context.Context, t attempt, cert tls.Certificate) (*reached, error) {
	within := dialWithin
	if t.brief {
		within = briefWithin
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var client *Connection
	var release func()
	var err error
	switch t.over {
	case proto.Transport_TRANSPORT_TLS:
		release = func() {}
		client, err = l.a.cfg.Dialers.ConnectTLS(ctx, t.at, l.a.cfg.State.Coordinator().Pin, cert)
	case proto.Transport_TRANSPORT_FAKE_TCP:
		client, release, err = l.tryFakeTCP(ctx, t.addr, cert)
	default:
		e := l.a.mainFor(t.addr)
		l.raced.try(time.Now(), t.addr)
		client, release, err = l.tryQUIC(ctx, e, t.addr, cert)
	}
	if err != nil {
		return nil, err
	}
	h := &line{ControlConn: client.ControlConn, release: release}
	client.ControlConn = h
	return &reached{Connection: client, how: t.same(), line: h}, nil
}

// tryQUIC dials from a socket that others use too.
func (l *link) tryQUIC(ctx context.Context, e *endpoint, addr netip.AddrPort, cert tls.Certificate) (*Connection, func(), error) {
	pc := e.quic.open(e.conn, addr)
	hidden, err := l.a.cfg.State.Coordinator().Hide(pc)
	if err != nil {
		e.quic.shut(addr, pc)
		return nil, nil, err
	}
	client, err := l.a.cfg.Dialers.Connect(ctx, hidden, addr, l.a.cfg.State.Coordinator().Pin, cert)
	if err != nil {
		e.quic.shut(addr, pc)
		return nil, nil, err
	}
	return client, func() { e.quic.shut(addr, pc) }, nil
}

// tryFakeTCP dials from a socket of its own, which ends with the connection.
func (l *link) tryFakeTCP(ctx context.Context, addr netip.AddrPort, cert tls.Certificate) (*Connection, func(), error) {
	family := netip.IPv4Unspecified()
	if addr.Addr().Unmap().Is6() {
		family = netip.IPv6Unspecified()
	}
	conn, err := l.a.cfg.Host.FakeTCP.ListenFakeTCP(netip.AddrPortFrom(family, 0), nil)
	if err != nil {
		return nil, nil, fmt.Errorf("open a fake TCP socket: %w", err)
	}
	e := newEndpoint(conn, path.DirectFakeTCP, l.a.board)
	l.a.tasks.start(func(context.Context) { e.read() })
	if err := conn.Open(ctx, addr); err != nil {
		e.close()
		return nil, nil, err
	}
	client, release, err := l.tryQUIC(ctx, e, addr, cert)
	if err != nil {
		e.close()
		return nil, nil, err
	}
	return client, func() { release(); e.close() }, nil
}
