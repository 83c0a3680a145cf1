package rendezvous

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"rendezvous/internal/dgram"
)

// poolLegs is how many relay legs share one TLS connection. It leaves room in
// maxStreams for those that are being closed.
const poolLegs = maxStreams / 2

// pool is the TLS connections that carry an agent's relay legs to one
// coordinator. Control has one of its own, so that it need not wait behind
// data.
type pool struct {
	dialing chan struct{} // holds one token: legs that come meanwhile share what is dialed

	mu    sync.Mutex
	conns []*pooled
}

// pooled is a connection and how many legs it has.
type pooled struct {
	*muxed
	legs     int
	doubtful bool // it was silent when a leg wanted to share it
}

// sharedWithin is how long, besides some round trips, a connection that is to
// be shared may take to answer. One that is held by an address which this host
// has lost is silent for good.
const sharedWithin = time.Second

// answers says whether the connection gives a sign of life soon.
func (c *pooled) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, sharedWithin+3*c.pulse.roundTrip())
	defer cancel()
	came := make(chan error, 1)
	go func() {
		_, err := c.session.Ping() // ends within muxWithin, or with the session
		came <- err
	}()
	select {
	case err := <-came:
		return err == nil
	case <-ctx.Done():
		return false
	}
}

// RelayTLS opens a way for one relay leg to the coordinator at HOST:PORT, as
// DialTLS connects. far is the one address on the conn: the coordinator's, or
// the proxy's. The legs of an agent share connections, which are closed with
// the last of them.
func RelayTLS(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (dgram.Conn, netip.AddrPort, error) {
	return standardTLS.Relay(ctx, at, pin, cert)
}

// Relay is like RelayTLS.
func (d *TLSDialer) Relay(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (dgram.Conn, netip.AddrPort, error) {
	p := d.pool(keyOfPool(at, pin, cert))
	c, err := p.take(ctx, func() (*muxed, error) { return d.dial(ctx, at, pin, cert) })
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	stream, err := c.open(streamLeg)
	if err != nil {
		if p.leave(c) {
			err = errors.Join(err, c.session.Close())
		}
		return nil, netip.AddrPort{}, fmt.Errorf("open a relay leg to %s over TLS: %w", at, err)
	}
	far := farOf(c.muxed)
	conn := &legStream{Stream: stream, pool: p, on: c}
	return dgram.NewStream(conn, far, dgram.StreamOptions{}), far, nil
}

func (d *TLSDialer) pool(k poolKey) *pool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.pools == nil {
		d.pools = map[poolKey]*pool{}
	}
	p := d.pools[k]
	if p == nil {
		p = &pool{dialing: make(chan struct{}, 1)}
		d.pools[k] = p
	}
	return p
}

// take gives a connection with room for one more leg, which it counts.
func (p *pool) take(ctx context.Context, dial func() (*muxed, error)) (*pooled, error) {
	for c := p.join(); c != nil; c = p.join() {
		if c.answers(ctx) {
			return c, nil
		}
		p.doubt(c)
	}
	select {
	case p.dialing <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for a relay connection over TLS that is being made: %w", ctx.Err())
	}
	defer func() { <-p.dialing }()
	if c := p.join(); c != nil {
		return c, nil
	}
	m, err := dial()
	if err != nil {
		return nil, err
	}
	c := &pooled{muxed: m, legs: 1}
	p.mu.Lock()
	p.conns = append(p.conns, c)
	p.mu.Unlock()
	go m.pulse.run() // ends with the session, which the last leg closes
	return c, nil
}

// join counts a leg on a connection that is there; nil if there is none.
func (p *pool) join() *pooled {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		if c.legs < poolLegs && !c.doubtful && !c.session.IsClosed() {
			c.legs++
			return c
		}
	}
	return nil
}

// doubt lets no more legs share c, and counts off the one that was to.
func (p *pool) doubt(c *pooled) {
	p.mu.Lock()
	c.doubtful = true
	p.mu.Unlock()
	if p.leave(c) {
		_ = c.session.Close()
	}
}

// leave counts a leg off, and says whether it was the last.
func (p *pool) leave(c *pooled) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.legs--; c.legs > 0 {
		return false
	}
	p.conns = slices.DeleteFunc(p.conns, func(each *pooled) bool { return each == c })
	return true
}

// legStream is a leg's stream; the connection is closed with the last of them.
type legStream struct {
	*yamux.Stream
	pool *pool
	on   *pooled
	once sync.Once
}

// Close is that of net.Conn. It does not wait for the network.
func (s *legStream) Close() error {
	s.once.Do(func() {
		if s.pool.leave(s.on) {
			_ = s.on.session.Close()
			return
		}
		go func() { _ = s.Stream.Close() }() // it takes its turn behind what is being written, muxWithin at most
	})
	return nil
}
