package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/quic-go/quic-go"
)

// Dialer makes control connections over one PacketConn. Several may be open at
// once: an agent tries a coordinator's ports side by side.
type Dialer struct {
	conn      *wakeable
	transport *quic.Transport

	mu      sync.Mutex
	clients map[*Client]netip.AddrPort // where each leads
	done    chan struct{}
	once    sync.Once
	tasks   sync.WaitGroup
}

// NewDialer uses pc, which stays the caller's to close, after the Dialer.
func NewDialer(pc net.PacketConn) *Dialer {
	conn := &wakeable{PacketConn: pc, woken: make(chan netip.AddrPort, 1)}
	d := &Dialer{
		conn:      conn,
		transport: &quic.Transport{Conn: conn, ConnectionIDLength: idLength},
		clients:   map[*Client]netip.AddrPort{},
		done:      make(chan struct{}),
	}
	d.tasks.Go(d.wake)
	return d
}

// wake hands wakes to the clients whose coordinator they come from.
func (d *Dialer) wake() {
	for {
		select {
		case <-d.done:
			return
		case from := <-d.conn.woken:
			d.mu.Lock()
			for c, addr := range d.clients {
				if addr == from {
					notice(c.woken)
				}
			}
			d.mu.Unlock()
		}
	}
}

// Close ends all connections of the Dialer.
func (d *Dialer) Close() error {
	d.mu.Lock()
	all := make([]*Client, 0, len(d.clients))
	for c := range d.clients {
		all = append(all, c)
	}
	d.mu.Unlock()
	var err error
	for _, c := range all {
		err = errors.Join(err, c.Close())
	}
	d.once.Do(func() { close(d.done) })
	d.tasks.Wait()
	return errors.Join(err, d.transport.Close())
}

// Dial makes a control connection to the coordinator at addr over pc, which
// stays the caller's and must serve no other connection. cert is the agent's
// own; pin is from the join link. Another key there gives a *PinError.
func Dial(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*Client, error) {
	d := NewDialer(pc)
	c, err := d.Dial(ctx, addr, pin, cert)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	inner := c.closed
	c.closed = func() error { return errors.Join(inner(), d.Close()) }
	return c, nil
}

// dial makes a connection for a protocol.
func (d *Dialer) dial(ctx context.Context, addr netip.AddrPort, pin [32]byte, cert tls.Certificate, protocol string, quicConf *quic.Config) (*quic.Conn, error) {
	wrong := make(chan *PinError, 1)
	config := clientTLS(pin, cert, addr.String(), func(e *PinError) {
		select {
		case wrong <- e:
		default:
		}
	})
	config.NextProtos = []string{protocol}
	conn, err := d.transport.Dial(ctx, net.UDPAddrFromAddrPort(addr), config, quicConf)
	if err != nil {
		select {
		case e := <-wrong:
			return nil, e
		default:
		}
		return nil, explainDial(ctx, addr, err)
	}
	return conn, nil
}

// Dial is like the function Dial.
func (d *Dialer) Dial(ctx context.Context, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*Client, error) {
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	quicConf := quicConfig()
	quicConf.MaxIncomingStreams = -1 // the coordinator opens none
	conn, err := d.dial(ctx, addr, pin, cert, ALPN, quicConf)
	if err != nil {
		return nil, err
	}
	stream, err := conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, errors.Join(explainDial(ctx, addr, err), conn.CloseWithError(closeDone, ""))
	}
	c, err := d.client(ctx, conn, stream, addr)
	if err != nil {
		return nil, errors.Join(explainDial(ctx, addr, err), conn.CloseWithError(closeDone, ""))
	}
	c.closed = func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.clients, c)
		return nil
	}
	d.mu.Lock()
	d.clients[c] = addr
	d.mu.Unlock()
	c.start()
	return c, nil
}

// client is over a lean connection, or over QUIC where the coordinator stays
// with that.
func (d *Dialer) client(ctx context.Context, conn *quic.Conn, stream *quic.Stream, addr netip.AddrPort) (*Client, error) {
	over, err := d.lighten(ctx, conn, stream, addr)
	switch {
	case errors.Is(err, errStays):
		return newClient(overQUIC{conn, "quic"}, stream, addr.String()), nil
	case err != nil:
		return nil, err
	}
	return newClient(over, over, addr.String()), nil
}

func explainDial(ctx context.Context, addr netip.AddrPort, err error) error {
	var idle *quic.IdleTimeoutError
	var handshake *quic.HandshakeTimeoutError
	var transport *quic.TransportError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("dial coordinator %v over UDP: no answer: %w; is it running, and UDP %d open?", addr, ctx.Err(), addr.Port())
	case errors.As(err, &idle), errors.As(err, &handshake):
		return fmt.Errorf("dial coordinator %v over UDP: no answer; is it running, and UDP %d open?", addr, addr.Port())
	case errors.As(err, &transport) && transport.ErrorCode == quic.ConnectionRefused:
		return fmt.Errorf("dial coordinator %v over UDP: it refuses, as it has too many connections, or too many new ones from this network; try again later", addr)
	}
	return fmt.Errorf("dial coordinator %v over UDP: %w", addr, closeReason(err))
}
