// Package quicflow makes QUIC connections with a peer whose packets are
// datagrams of the session with it, on proto.QUICFlow. So a connection moves
// with the session, and lives on when another session takes its place. Both
// ends are known by the keys of their membership.
package quicflow

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// ALPN is what connections between two agents speak: streams of TCP services.
const ALPN = "rdv-streams/1"

// Config is what an End needs. All of it is required.
type Config struct {
	// Send carries datagrams to the peer, over these kinds of path alone; the
	// empty set is no rule. b is valid during the call. What can't be sent now
	// is dropped: QUIC sends it again.
	Send func(only path.Kinds, b dgram.Burst)
	// Room is how large a datagram may be to cross whole now, in bytes; 0 while
	// that is unknown.
	Room func(only path.Kinds) int
	// Accept takes a connection that the peer made, under its rule. It must not
	// block.
	Accept func(only path.Kinds, c *quic.Conn)
	// Certificate is ours; PeerKey the peer's Ed25519 key, nil while it is not
	// known, when no connection is made.
	Certificate tls.Certificate
	PeerKey     func() ed25519.PublicKey
	// ResetKey is the same after a restart of this agent, so that connections
	// of the run before are told at once that they are gone (RFC 9000 section
	// 10.3).
	ResetKey quic.StatelessResetKey
	// QUIC makes the configuration of a connection; the size of packets is
	// chosen here.
	QUIC func() *quic.Config
}

// End is our end of the flow. It must be closed.
type End struct {
	cfg       Config
	conn      *conn
	transport *quic.Transport
	listener  *quic.Listener
	cancel    context.CancelFunc
	tasks     sync.WaitGroup
}

// New opens our end of the flow: it accepts at once.
func New(cfg Config) (*End, error) {
	e := &End{cfg: cfg, conn: newConn(cfg.Send)}
	e.begin(0)
	if _, err := blank(); err != nil {
		return nil, err
	}
	raw := offloaded(e.conn)
	e.transport = &quic.Transport{
		Conn:                             raw,
		ConnectionIDLength:               idLength,
		StatelessResetKey:                &cfg.ResetKey,
		DisableVersionNegotiationPackets: true,
	}
	config := e.config()
	config.GetConfigForClient = func(info *quic.ClientInfo) (*quic.Config, error) {
		e.begin(ruleOf(info.RemoteAddr))
		return e.config(), nil
	}
	var err error
	if e.listener, err = e.transport.Listen(e.tlsConfig(), config); err != nil {
		return nil, errors.Join(fmt.Errorf("QUIC over the session: %w", err), raw.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	e.tasks.Go(func() { e.accept(ctx) })
	return e, nil
}

// idLength is the length of connection IDs: a peer has few connections with us.
const idLength = 4

// startSize is the size of a connection's first packets, in bytes. quic-go's
// pacer takes it for granted (v0.65.0: with another one it is awake all the time
// between two packets on slow paths).
const startSize = 1280

func (e *End) config() *quic.Config {
	c := e.cfg.QUIC()
	c.InitialPacketSize = startSize
	return c
}

// Link is a connection that we made.
type Link struct {
	*quic.Conn
	only path.Kinds
	room int // that there was when it began
}

// Only is the rule that it was made under.
func (l Link) Only() path.Kinds { return l.only }

// Fits says whether the link's packets are about as large as its path, as it is
// now, lets them be: they grow no more when the path does, and the session
// splits what has become too large.
func (e *End) Fits(l Link) bool {
	now := e.cfg.Room(l.only)
	return now == 0 || now <= max(l.room, startSize)+growth && (now >= l.room || now >= startSize+prefix && l.room <= startSize+prefix)
}

// growth is by how much larger packets must become to be worth another
// connection, in bytes.
const growth = 64

// Dial makes a connection to the peer, under a rule. ctx bounds the handshake
// alone.
func (e *End) Dial(ctx context.Context, only path.Kinds) (Link, error) {
	if e.cfg.PeerKey() == nil {
		return Link{}, errNoKey
	}
	l := Link{only: only, room: e.begin(only)}
	var err error
	if l.Conn, err = e.transport.Dial(ctx, addrOf(only), e.tlsConfig(), e.config()); err != nil {
		return Link{}, fmt.Errorf("make a QUIC connection over the session: %w", err)
	}
	return l, nil
}

// begin has QUIC find out how large the packets of a new connection may be, as
// if there were no session that splits larger ones.
func (e *End) begin(only path.Kinds) (room int) {
	room = e.cfg.Room(only)
	e.conn.most[only&path.AllKinds].Store(int32(max(room, startSize+prefix)))
	return room
}

func (e *End) accept(ctx context.Context) {
	for {
		c, err := e.listener.Accept(ctx)
		if err != nil {
			return // it was closed
		}
		e.cfg.Accept(ruleOf(c.RemoteAddr()), c)
	}
}

// Deliver takes a burst that came on the flow.
func (e *End) Deliver(b dgram.Burst) { e.conn.deliver(b) }

// Dropped is how many datagrams were malformed, and how many found the queue
// full.
func (e *End) Dropped() (malformed, full uint64) {
	return e.conn.in.malformed.Load(), e.conn.in.full.Load()
}

// Close ends all connections and waits until nothing of them runs.
func (e *End) Close() error {
	e.cancel()
	err := errors.Join(e.listener.Close(), e.transport.Close())
	e.conn.shut()
	e.tasks.Wait()
	return err
}

var (
	errNoKey = errors.New("the peer's key is not known yet")
	errOther = errors.New("whoever answers has another key than the peer")
)

// tlsConfig is TLSConfig with what this end was given. The session has proved
// the same before; this binds the connection to it.
func (e *End) tlsConfig() *tls.Config { return TLSConfig(e.cfg.Certificate, e.cfg.PeerKey) }

// TLSConfig has both ends show their certificate, and takes the peer's alone, in
// TLS 1.3. It serves either end.
func TLSConfig(ours tls.Certificate, peerKey func() ed25519.PublicKey) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{ALPN},
		Certificates:           []tls.Certificate{ours},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true,
		InsecureSkipVerify:     true, // no authority signs; VerifyConnection compares the key
		VerifyConnection: func(s tls.ConnectionState) error {
			want := peerKey()
			if want == nil {
				return errNoKey
			}
			return checkKey(s.PeerCertificates, want)
		},
	}
}

func checkKey(chain []*x509.Certificate, want ed25519.PublicKey) error {
	if len(chain) == 0 {
		return errOther
	}
	if key, ok := chain[0].PublicKey.(ed25519.PublicKey); !ok || !key.Equal(want) {
		return errOther
	}
	return nil
}

// addrOf is an address that stands for the peer and a rule: QUIC wants one, and
// gives it back with each packet.
func addrOf(only path.Kinds) *net.UDPAddr { return addrs[only&path.AllKinds] }

var addrs = makeAddrs()

func makeAddrs() (out [path.AllKinds + 1]*net.UDPAddr) {
	for only := range out {
		out[only] = &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1).To4(), Port: 1 + only}
	}
	return out
}

func ruleOf(a net.Addr) path.Kinds {
	if at, ok := a.(*net.UDPAddr); ok && at.Port > 0 {
		return path.Kinds(at.Port-1) & path.AllKinds
	}
	return 0
}
