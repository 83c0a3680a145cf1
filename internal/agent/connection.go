package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/relay"
	"rendezvous/internal/stream"
	"rendezvous/proto"
)

// ControlConn is the agent's end of a control connection.
type ControlConn interface {
	// Call asks and waits for the answer.
	Call(ctx context.Context, m *proto.ToCoordinator) (*proto.ToAgent, error)
	// Send asks for no answer.
	Send(m *proto.ToCoordinator) error
	// Events are what nobody asked for; closed when the connection is lost.
	Events() <-chan *proto.ToAgent
	Close() error
}

// Connection is a control connection and what is known of it.
type Connection struct {
	ControlConn
	Addr      netip.AddrPort
	Transport string // quic or tls
	Via       string // the proxy that it goes through; empty: none
	RTT       func() time.Duration
	Why       func() error // it was lost
	// Keep sets how often the coordinator hears of us; nil: that can't be set.
	Keep func(every time.Duration)
}

// keep has the mappings on the way held by something so often. That is known of
// UDP over IPv4 alone.
func (c *Connection) keep(every time.Duration) {
	if c.Keep != nil && c.Transport != "tls" && c.Addr.Addr().Unmap().Is4() {
		c.Keep(every)
	}
}

// ErrReplaced and ErrRevoked are reasons for a connection's end (Why) after
// which another one at once would do harm or no good.
var (
	ErrReplaced = errors.New("another agent registered with this agent's key")
	ErrRevoked  = errors.New("this agent was revoked")
)

// ErrWrongKey is the reason where whoever answers is not the coordinator.
var ErrWrongKey = errors.New("whoever answers there has another key than the coordinator")

// Connect dials a coordinator over pc and checks its pinned key.
type Connect func(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*Connection, error)

// ConnectTLS dials a coordinator over TLS, by HOST:PORT, where a proxy may
// know the name, and checks its pinned key.
type ConnectTLS func(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (*Connection, error)

// RelayTLS opens a way for one relay leg through TLS to the coordinator. far is
// the one address on the conn.
type RelayTLS func(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (conn dgram.Conn, far netip.AddrPort, err error)

// Splice joins a stream of bytes with that of the other leg of an allocation,
// through TLS to the coordinator, and waits for that. number names it.
type Splice func(ctx context.Context, at string, pin [32]byte, cert tls.Certificate, leg *relay.Leg, number uint64) (net.Conn, error)

// DialStreams makes a carrier of the connections of public TCP ports over pc to a
// coordinator, and checks its pinned key.
type DialStreams func(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (stream.Carrier, error)

// DialStreamsTLS is DialStreams over TLS, by HOST:PORT.
type DialStreamsTLS func(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (stream.Carrier, error)
