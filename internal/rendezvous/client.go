package rendezvous

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"rendezvous/proto"
)

// How a client notices that its coordinator is gone.
const (
	answerTimeout = 8 * time.Second // for an answer to a heartbeat
	writeTimeout  = 10 * time.Second
	eventBuffer   = 64
	firstID       = 1 << 62 // see heartbeat
)

// Client is a control connection, seen from an agent.
type Client struct {
	carrier
	name   string // of the coordinator, for errors
	via    string // the proxy
	stream controlStream
	closed func() error // lets go of what the carrier stood on
	events chan *proto.ToAgent
	woken  chan struct{}
	write  chan struct{} // holds one token: who has it may write
	tasks  sync.WaitGroup

	mu    sync.Mutex
	calls map[uint64]chan *proto.ToAgent
	next  uint64
	every time.Duration // between heartbeats; 0: keepAlive
	err   error
	once  sync.Once
}

// newClient serves a control stream that was opened.
func newClient(over carrier, stream controlStream, name string) *Client {
	return &Client{
		carrier: over,
		name:    name,
		stream:  stream,
		closed:  func() error { return nil },
		events:  make(chan *proto.ToAgent, eventBuffer),
		woken:   make(chan struct{}, 1),
		write:   make(chan struct{}, 1),
		calls:   map[uint64]chan *proto.ToAgent{},
		next:    firstID,
	}
}

func (c *Client) start() {
	c.tasks.Go(c.read)
	c.tasks.Go(c.heartbeat)
}

// Events are the messages that nobody asked for, in order. The channel is
// closed when the connection is lost. Who does not read them gets no answers
// either. An event may be seen before the answer of a Call that came before it.
func (c *Client) Events() <-chan *proto.ToAgent { return c.events }

// Err is why the connection was lost, nil as long as it is not: a *CodeError
// (CODE_REPLACED, CODE_REVOKED), ErrStopping, net.ErrClosed after Close, or
// what QUIC or TLS say.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// RTT is the round trip to the coordinator.
func (c *Client) RTT() time.Duration { return c.look().roundTrip }

// Addr is the coordinator's address, the zero AddrPort behind a proxy.
func (c *Client) Addr() netip.AddrPort { return c.look().remote }

// Transport is "quic" or "tls".
func (c *Client) Transport() string { return c.look().transport }

// Via is the HOST:PORT of the proxy that the connection goes through, empty
// where there is none.
func (c *Client) Via() string { return c.via }

// Close ends the connection and waits until nothing of it runs any more.
func (c *Client) Close() error {
	c.fail(net.ErrClosed)
	c.tasks.Wait()
	var err error
	c.once.Do(func() { err = c.closed() })
	return err
}

// fail ends the connection for a reason, of which the first is kept: what QUIC
// says when it has ended already.
func (c *Client) fail(why error) {
	if cause := context.Cause(c.ended()); cause != nil && !errors.Is(cause, errCut) {
		why = closeReason(cause)
	}
	c.mu.Lock()
	if c.err == nil {
		c.err = why
	}
	c.mu.Unlock()
	_ = c.end(closeDone, "")
}

// lost is the error of everything that the lost connection ended.
func (c *Client) lost() error {
	err := c.Err()
	if err == nil {
		err = closeReason(context.Cause(c.ended()))
	}
	return fmt.Errorf("control connection to %s: %w", c.name, err)
}

// read takes messages apart into answers and events.
func (c *Client) read() {
	defer close(c.events)
	r := bufio.NewReader(c.stream)
	bye := false
	for {
		m := new(proto.ToAgent)
		if err := proto.ReadMessage(r, m); err != nil {
			c.fail(c.streamReason(err, bye))
			return
		}
		if m.GetId() == 0 {
			if e := m.GetError(); e != nil { // last words
				c.fail(lastReason(e))
				return
			}
			bye = bye || m.GetGoodbye() != nil
			select {
			case c.events <- m:
			case <-c.ended().Done():
			}
			continue
		}
		c.mu.Lock()
		answer := c.calls[m.GetId()]
		delete(c.calls, m.GetId())
		c.mu.Unlock()
		if answer != nil {
			answer <- m // it has room for one
		}
	}
}

// streamReason is why the control stream could not be read. QUIC says why; a
// stream of TLS just ends, and what came before it tells: a goodbye perhaps.
func (c *Client) streamReason(err error, bye bool) error {
	switch {
	case c.Transport() != wordTLS:
		return closeReason(err)
	case bye:
		return ErrStopping
	case errors.Is(err, io.EOF):
		return errCut
	}
	return err
}

// Send sends a message that asks for no answer; its id is set to 0.
func (c *Client) Send(m *proto.ToCoordinator) error {
	m.Id = 0
	return c.put(context.Background(), m)
}

func (c *Client) put(ctx context.Context, m *proto.ToCoordinator) error {
	select {
	case c.write <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-c.ended().Done():
		return c.lost()
	}
	defer func() { <-c.write }()
	// Half a message can't be taken back, so a write is not cut short by ctx.
	err := c.stream.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err == nil {
		err = proto.WriteMessage(c.stream, m)
	}
	if err != nil && c.Transport() == wordTLS {
		// The reader finds out more: last words may be there to read.
		time.AfterFunc(farewellWithin, func() { c.fail(closeReason(err)) })
		<-c.ended().Done()
		return c.lost()
	}
	if err != nil {
		c.fail(closeReason(err))
		return c.lost()
	}
	return nil
}

// Call sends a request and waits for its answer. m's id is chosen here. An
// error that the coordinator answers is a *CodeError.
func (c *Client) Call(ctx context.Context, m *proto.ToCoordinator) (*proto.ToAgent, error) {
	answer := make(chan *proto.ToAgent, 1)
	c.mu.Lock()
	c.next++
	m.Id = c.next
	c.calls[m.Id] = answer
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.calls, m.Id)
		c.mu.Unlock()
	}()
	if err := c.put(ctx, m); err != nil {
		return nil, err
	}
	select {
	case a := <-answer:
		if e := a.GetError(); e != nil {
			return nil, &CodeError{Code: e.GetCode(), Text: e.GetText()}
		}
		return a, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("coordinator %s has not answered: %w", c.name, ctx.Err())
	case <-c.ended().Done():
		return nil, c.lost()
	}
}

// slowestBeat leaves room for a heartbeat that got no answer, and the next, before
// either end gives the connection up.
const slowestBeat = 20 * time.Second

// Keep sets how often the coordinator, and with it every NAT on the way, hears of
// this agent, 20 s at most; every 15 s where nothing is set.
func (c *Client) Keep(every time.Duration) {
	c.mu.Lock()
	sooner := every < cmp.Or(c.every, keepAlive)
	c.every = min(every, slowestBeat)
	c.mu.Unlock()
	if sooner {
		notice(c.woken)
	}
}

func (c *Client) pace() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.every, keepAlive)
}

// heartbeat shows the coordinator and every NAT on the way that this agent is
// there, and the agent that its coordinator is. It is a request without a body
// and with a long id, for which any running coordinator has an answer: a QUIC
// PING is too short to be answered with a stateless reset (RFC 9000 section
// 10.3), so a coordinator that was restarted would stay silent.
func (c *Client) heartbeat() {
	ctx := c.ended()
	timer := time.NewTimer(c.pace())
	defer timer.Stop()
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-c.woken:
			if time.Since(last) < wakeAtMost {
				continue
			}
		}
		last = time.Now()
		beat, cancel := context.WithTimeout(ctx, answerTimeout)
		err := c.beat(beat)
		cancel()
		var refusal *CodeError
		if err != nil && !errors.As(err, &refusal) {
			c.fail(fmt.Errorf("it has not answered for %v", answerTimeout))
			return
		}
		timer.Reset(c.pace())
	}
}

// beater is a carrier that has signs of life of its own.
type beater interface {
	beat(ctx context.Context) error
}

func (c *Client) beat(ctx context.Context) error {
	if over, ok := c.carrier.(beater); ok {
		return over.beat(ctx)
	}
	_, err := c.Call(ctx, &proto.ToCoordinator{})
	return err
}
