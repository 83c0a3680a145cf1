package rendezvous

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/rs/zerolog"

	"rendezvous/internal/dgram"
	"rendezvous/internal/stream"
)

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// TLSDialer makes connections to coordinators over TLS, straight or through an
// HTTP proxy, and keeps those that carry relay legs. The zero TLSDialer is
// ready.
type TLSDialer struct {
	// Dial opens TCP connections; nil: the system's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Proxy says through which proxy to go to HOST:PORT, nil for none. Where
	// Proxy is nil, HTTPS_PROXY and NO_PROXY say so.
	Proxy func(at string) (*url.URL, error)
	Log   zerolog.Logger

	mu    sync.Mutex
	pools map[poolKey]*pool
}

// dialWithin bounds the way to a coordinator where the caller does not.
const dialWithin = 20 * time.Second

var standardTLS TLSDialer

// DialTLS makes a control connection to the coordinator at HOST:PORT over TLS
// 1.3 and TCP, through the proxy of HTTPS_PROXY and NO_PROXY where they name
// one. cert is the agent's own; pin is from the join link. Another key there
// gives a *PinError.
func DialTLS(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (*Client, error) {
	return standardTLS.Connect(ctx, at, pin, cert)
}

// Connect is like DialTLS.
func (d *TLSDialer) Connect(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (*Client, error) {
	m, err := d.dial(ctx, at, pin, cert)
	if err != nil {
		return nil, err
	}
	stream, err := m.open(streamControl)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("dial coordinator %s over TLS: open the control stream: %w", at, err), m.session.Close())
	}
	over := &overTLS{pulse: m.pulse, stream: stream, at: look{remote: m.far, transport: wordTLS}}
	if m.via != "" {
		over.at.remote = netip.AddrPort{}
	}
	c := newClient(over, stream, at)
	over.tasks, c.via = &c.tasks, m.via
	c.tasks.Go(m.pulse.run)
	c.start()
	return c, nil
}

// muxed is a TLS connection with yamux, seen from an agent.
type muxed struct {
	session *yamux.Session
	pulse   *pulse
	far     netip.AddrPort // of the coordinator, or of the proxy
	via     string
}

// open opens a stream and says what it is.
func (m *muxed) open(kind byte) (*yamux.Stream, error) {
	stream, err := m.session.OpenStream()
	if err != nil {
		return nil, err
	}
	if _, err := stream.Write([]byte{kind}); err != nil {
		return nil, errors.Join(err, stream.Close())
	}
	return stream, nil
}

// dial connects for control and relay legs.
func (d *TLSDialer) dial(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (*muxed, error) {
	conn, via, err := d.handshake(ctx, at, pin, cert, ALPNStreams)
	if err != nil {
		return nil, err
	}
	session, err := yamux.Client(stream.WholeFrames(conn), muxConfig(d.Log))
	if err != nil {
		return nil, errors.Join(err, conn.Close()) // a fault of muxConfig
	}
	return &muxed{session: session, pulse: newPulse(session), far: dgram.AddrOf(conn.RemoteAddr()), via: via}, nil
}

// handshake connects and shakes hands; it gives the proxy too.
func (d *TLSDialer) handshake(ctx context.Context, at string, pin [32]byte, cert tls.Certificate, protocol string) (conn *tls.Conn, via string, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	host, port, err := net.SplitHostPort(at)
	if err != nil {
		return nil, "", fmt.Errorf("dial coordinator %q over TLS: it is not HOST:PORT", at)
	}
	tcp, via, err := d.connect(ctx, at)
	if err != nil {
		return nil, "", explainTLS(ctx, at, port, via, err)
	}
	var wrong *PinError
	config := clientTLS(pin, cert, at, func(e *PinError) { wrong = e })
	config.NextProtos = []string{protocol}
	config.ServerName = nameOf(host)
	conn = tls.Client(tcp, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		err = errors.Join(explainTLS(ctx, at, port, via, err), tcp.Close())
		if wrong != nil {
			return nil, "", wrong
		}
		return nil, "", err
	}
	if got := conn.ConnectionState().NegotiatedProtocol; got != protocol {
		return nil, "", errors.Join(fmt.Errorf("dial coordinator %s over TLS: what answers there speaks %q, not %q", at, got, protocol), tcp.Close())
	}
	return conn, via, nil
}

// connect gives a TCP connection to at, or a proxy's tunnel, and the proxy.
func (d *TLSDialer) connect(ctx context.Context, at string) (conn net.Conn, via string, err error) {
	dial := d.Dial
	if dial == nil {
		dial = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive / 3, Count: 3}}).DialContext
	}
	choose := d.Proxy
	if choose == nil {
		choose = environmentProxy
	}
	proxy, err := choose(at)
	if err != nil {
		return nil, "", err
	}
	if proxy != nil {
		conn, err = connectThrough(ctx, dial, proxy, at)
		return conn, proxyAt(proxy), err
	}
	if conn, err = dial(ctx, "tcp", at); err == nil {
		tuneTCP(conn)
	}
	return conn, "", err
}

// nameOf is what TLS calls the server: its name, as any browser would; an
// address has none, and is not told.
func nameOf(host string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	return host
}

func explainTLS(ctx context.Context, at, port, via string, err error) error {
	what := "dial coordinator " + at + " over TLS"
	if via != "" {
		what += " through proxy " + via
	}
	var alert tls.AlertError
	var record tls.RecordHeaderError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%s: no answer: %w; is it running, and TCP %s open?", what, ctx.Err(), port)
	case errors.As(err, &alert):
		return fmt.Errorf("%s: what answers there is no coordinator, or refuses this agent: %w", what, err)
	case errors.As(err, &record):
		return fmt.Errorf("%s: what answers there does not speak TLS: %w", what, err)
	case via != "" && !errors.Is(err, io.EOF):
		return fmt.Errorf("dial coordinator %s over TLS: %w", at, err) // it names the proxy
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%s: %w; is it running, and does it listen on TCP %s?", what, err, port)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%s: the connection was cut during the handshake (%w); a firewall may stand between, or the coordinator has too many connections", what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// poolKey is an agent at a coordinator.
type poolKey struct {
	at   string
	pin  [32]byte
	cert string
}

func keyOfPool(at string, pin [32]byte, cert tls.Certificate) poolKey {
	k := poolKey{at: at, pin: pin}
	if len(cert.Certificate) > 0 {
		k.cert = string(cert.Certificate[0])
	}
	return k
}

// farOf is the address that a leg's datagrams come from: the coordinator's, the
// proxy's where only that is known, or one that stands for none.
func farOf(m *muxed) netip.AddrPort {
	return cmp.Or(m.far, netip.AddrPortFrom(netip.IPv4Unspecified(), 443))
}
