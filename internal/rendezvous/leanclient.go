package rendezvous

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/lean"
	"rendezvous/proto"
)

// leanClient is the agent's end of a lean connection, and its control stream.
type leanClient struct {
	*leanEnd
	reset lean.Token
	came  chan struct{} // something can be read
	signs chan struct{} // of life

	reading sync.Mutex
	unread  []byte
}

// Read is that of controlStream.
func (c *leanClient) Read(b []byte) (int, error) {
	for {
		c.reading.Lock()
		n := copy(b, c.unread)
		c.unread = c.unread[n:]
		if len(c.unread) == 0 {
			c.unread = nil
		}
		c.reading.Unlock()
		if n > 0 || len(b) == 0 {
			return n, nil
		}
		select {
		case <-c.came:
		case <-c.ctx.Done():
			return 0, context.Cause(c.ctx)
		}
	}
}

// SetReadDeadline does nothing: the end of the connection ends a Read.
func (c *leanClient) SetReadDeadline(time.Time) error { return nil }

// take takes a datagram of the connection's ID.
func (c *leanClient) take(from netip.AddrPort, d []byte) {
	if lean.IsReset(d, c.reset) {
		c.finish(&quic.StatelessResetError{})
		return
	}
	c.mu.Lock()
	send := c.send
	c.mu.Unlock()
	c.reading.Lock()
	r, ok := c.receive(time.Now(), from, send, d)
	c.unread = append(c.unread, r.Bytes...)
	c.reading.Unlock()
	if ok && r.Newer {
		notice(c.signs)
	}
	if len(r.Bytes) > 0 {
		notice(c.came)
	}
}

// notice leaves a token for who waits for one.
func notice(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// beat asks for a sign of life until there is one.
func (c *leanClient) beat(ctx context.Context) error {
	select {
	case <-c.signs: // an old one
	default:
	}
	for pause := max(beatFirst, 3*c.look().roundTrip); ; pause *= 2 {
		c.ping()
		timer := time.NewTimer(pause)
		select {
		case <-c.signs:
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
}

// beatFirst is how long a sign of life is waited for, before it is asked for
// again.
const beatFirst = 500 * time.Millisecond

// leans are the lean connections over one socket.
type leans struct {
	mu  sync.Mutex
	all map[lean.ID]*leanClient
}

func (l *leans) add(id lean.ID, c *leanClient) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all == nil {
		l.all = make(map[lean.ID]*leanClient)
	}
	l.all[id] = c
	context.AfterFunc(c.ctx, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.all, id)
	})
}

// take hands on what is one of theirs.
func (l *leans) take(from netip.AddrPort, d []byte) bool {
	id, ok := lean.IDOf(d)
	if !ok {
		return false
	}
	l.mu.Lock()
	c := l.all[id]
	l.mu.Unlock()
	if c != nil {
		c.take(from, d)
	}
	return c != nil
}

// errStays says that the coordinator goes on with QUIC: it is older, or has too
// many connections.
var errStays = errors.New("the coordinator stays with QUIC")

// lighten goes on without the QUIC connection, which it ends.
func (d *Dialer) lighten(ctx context.Context, conn *quic.Conn, stream *quic.Stream, addr netip.AddrPort) (*leanClient, error) {
	told, err := askLean(ctx, stream)
	if err != nil {
		return nil, err
	}
	if len(told.GetId()) != lean.IDSize || len(told.GetToken()) != lean.TokenSize {
		return nil, fmt.Errorf("the coordinator gives a lean connection an ID of %d bytes and a reset of %d", len(told.GetId()), len(told.GetToken()))
	}
	id := lean.ID(told.GetId())
	own, other, err := leanKeys(conn, id)
	if err != nil {
		return nil, err
	}
	link, err := lean.New(id, own, other, roundTrip(conn.ConnectionStats()))
	if err != nil {
		return nil, err
	}
	to := net.UDPAddrFromAddrPort(addr)
	c := &leanClient{reset: lean.Token(told.GetToken()), came: make(chan struct{}, 1), signs: make(chan struct{}, 1)}
	c.leanEnd = newLeanEnd(link, addr, "quic", func(_ netip.AddrPort, b []byte) {
		// What the socket does not take is lost, as on the way.
		_, _ = d.conn.WriteTo(b, to)
	})
	d.conn.leans.add(id, c)
	return c, conn.CloseWithError(closeDone, "")
}

func askLean(ctx context.Context, stream *quic.Stream) (*proto.Leaned, error) {
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := proto.WriteMessage(stream, &proto.ToCoordinator{Id: 1, Body: &proto.ToCoordinator_Lean{Lean: &proto.Lean{}}}); err != nil {
		return nil, err
	}
	var answer proto.ToAgent
	if err := proto.ReadMessage(bufio.NewReaderSize(stream, readBuffer), &answer); err != nil {
		return nil, err
	}
	if answer.GetLeaned() == nil {
		return nil, errStays
	}
	return answer.GetLeaned(), nil
}
