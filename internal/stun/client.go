package stun

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	pion "github.com/pion/stun/v3"

	"rendezvous/internal/dgram"
)

// The pace of requests. RFC 8489 section 6.2.1 begins with 500 ms for any
// path; ours is to a coordinator nearby, and a spare request costs little.
const (
	firstWait = 100 * time.Millisecond
	minWait   = 20 * time.Millisecond
	maxWait   = 1600 * time.Millisecond // RFC 8489's last interval but one
	// With a known round trip the first wait is twice that, and no more than
	// RFC 8489 would wait.
	maxFirstWait = 500 * time.Millisecond
)

// maxWriteErrors is how many writes in a row may fail before a transaction
// ends. One alone may be a local firewall's EPERM or a full queue.
const maxWriteErrors = 3

// Result is an answer.
type Result struct {
	// Mapped is where the server saw the request come from.
	Mapped netip.AddrPort
	// Other is the server's other address and port; the zero AddrPort where it
	// has none (OTHER-ADDRESS).
	Other netip.AddrPort
	// Origin is where the server says that it answered from, zero where it
	// doesn't (RESPONSE-ORIGIN). It differs from From behind a NAT of the
	// server's.
	Origin netip.AddrPort
	// OtherPort is the other port of a server that has but one address; 0
	// where it doesn't say so. Such a server honours "change port".
	OtherPort uint16
	// From is where the answer came from. It is the server asked, unless a
	// change was asked for and honoured.
	From netip.AddrPort
	// RTT is the round trip of the very request that was answered.
	RTT time.Duration
}

// ErrorAnswer is a server's refusal.
type ErrorAnswer struct {
	Server netip.AddrPort
	Code   int // RFC 8489 section 14.8; 420 is "unknown attribute"
	Reason string
}

func (e *ErrorAnswer) Error() string {
	return fmt.Sprintf("STUN server %v refused with %d %q", e.Server, e.Code, e.Reason)
}

// ClientStats count what a client sent and received since it was made.
type ClientStats struct {
	Sent        uint64 // requests, with those sent again
	Answered    uint64 // good answers
	Refused     uint64 // error answers
	Malformed   uint64 // no STUN message, or an answer without an address
	Unexpected  uint64 // another transaction's, or no answer at all
	WrongSource uint64 // the right transaction from an address that wasn't asked
	WriteErrors uint64
}

// Client runs Binding transactions on a socket that somebody else owns: it
// writes through a function, and the socket's reader hands it what comes in.
// It is safe for concurrent use and has no goroutine.
type Client struct {
	write func(dgram.Burst) error

	mu      sync.Mutex
	first   time.Duration
	pending map[transaction]request
	stats   ClientStats
}

// request is one datagram sent. Each has a transaction id of its own, also
// when it repeats another, so that its round trip is known for certain.
type request struct {
	call *call
	sent time.Time
}

// call is one Bind or Ask.
type call struct {
	server netip.AddrPort
	flags  uint32
	port   uint16                  // that the answer goes to; 0: the request's own
	write  func(dgram.Burst) error // who asks
	ids    []transaction           // guarded by Client.mu
	done   chan outcome            // of one
}

type outcome struct {
	result Result
	err    error
}

// NewClient makes a client that sends with write. A write may be called from
// several goroutines at once.
func NewClient(write func(dgram.Burst) error) *Client {
	return &Client{write: write, first: firstWait, pending: make(map[transaction]request)}
}

// Expect tells the client about how long a round trip takes, so that it
// repeats a lost request neither too early nor too late.
func (c *Client) Expect(rtt time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.first = min(max(2*rtt, minWait), maxFirstWait)
}

// Stats are the counters so far.
func (c *Client) Stats() ClientStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// Bind asks server how it sees this socket. It repeats the request after 100 ms,
// or twice what Expect was told, then after twice that and so on, until ctx
// ends. An answer that is an error is an *ErrorAnswer.
func (c *Client) Bind(ctx context.Context, server netip.AddrPort) (Result, error) {
	return c.Ask(ctx, server, false, false)
}

// Ask is Bind, but wants the answer from the server's other address, its other
// port, or both (RFC 5780 CHANGE-REQUEST). A server that doesn't know how may
// answer with an error, or from where it was asked, or not at all.
func (c *Client) Ask(ctx context.Context, server netip.AddrPort, changeIP, changePort bool) (Result, error) {
	call := &call{server: plain(server), write: c.write, done: make(chan outcome, 1)}
	if changeIP {
		call.flags |= flagChangeIP
	}
	if changePort {
		call.flags |= flagChangePort
	}
	return c.run(ctx, call)
}

// Reach has another socket, whose write is given, ask server to answer to an
// outside port of this one (RESPONSE-PORT, RFC 5780 section 7.5): so it is known
// whether the mapping is still there, and nothing is sent that would renew it.
// Mapped is where the server sees the other socket.
func (c *Client) Reach(ctx context.Context, server netip.AddrPort, port uint16, write func(dgram.Burst) error) (Result, error) {
	return c.run(ctx, &call{server: plain(server), port: port, write: write, done: make(chan outcome, 1)})
}

// run sends a request until there is an answer.
func (c *Client) run(ctx context.Context, call *call) (Result, error) {
	server := call.server
	c.mu.Lock()
	wait := c.first
	c.mu.Unlock()
	defer c.forget(call)

	begun, failures := time.Now(), 0
	for {
		if err := c.send(call); err != nil {
			failures++
			if failures == maxWriteErrors || errors.Is(err, net.ErrClosed) {
				return Result{}, fmt.Errorf("ask STUN server %v: %w", server, err)
			}
		} else {
			failures = 0
		}
		timer := time.NewTimer(wait)
		select {
		case o := <-call.done:
			timer.Stop()
			return o.result, o.err
		case <-ctx.Done():
			timer.Stop()
			return Result{}, fmt.Errorf("ask STUN server %v: no answer in %v; does UDP to port %d pass?: %w",
				server, time.Since(begun).Round(time.Millisecond), server.Port(), context.Cause(ctx))
		case <-timer.C:
			wait = min(2*wait, maxWait)
		}
	}
}

func (c *Client) send(call *call) error {
	id := pion.NewTransactionID()
	c.mu.Lock()
	c.pending[id] = request{call: call, sent: time.Now()}
	call.ids = append(call.ids, id)
	c.stats.Sent++
	c.mu.Unlock()
	err := call.write(dgram.One(call.server, bindingRequestTo(id, call.flags, call.port)))
	if err != nil {
		c.mu.Lock()
		c.stats.WriteErrors++
		c.mu.Unlock()
	}
	return err
}

func (c *Client) forget(call *call) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range call.ids {
		delete(c.pending, id)
	}
}

// Receive takes a datagram that the socket's reader holds to be STUN. It keeps
// nothing of b. What answers no request of this client is counted and dropped.
func (c *Client) Receive(from netip.AddrPort, b []byte) {
	m, err := parse(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.stats.Malformed++
		return
	}
	req, ok := c.pending[m.TransactionID]
	if !ok || m.Type != pion.BindingSuccess && m.Type != pion.BindingError {
		c.stats.Unexpected++
		return
	}
	from = plain(from)
	if from != req.call.server && req.call.flags == 0 {
		c.stats.WrongSource++
		return
	}
	o, ok := decode(m, from)
	switch {
	case !ok:
		c.stats.Malformed++
		return
	case o.err != nil:
		c.stats.Refused++
	default:
		c.stats.Answered++
		o.result.RTT = time.Since(req.sent)
	}
	delete(c.pending, m.TransactionID)
	select {
	case req.call.done <- o:
	default: // an earlier request was answered a moment ago
	}
}

// decode reads a Binding answer; false where it holds no answer.
func decode(m *pion.Message, from netip.AddrPort) (outcome, bool) {
	if m.Type == pion.BindingError {
		var code pion.ErrorCodeAttribute
		if code.GetFrom(m) != nil {
			return outcome{}, false
		}
		return outcome{err: &ErrorAnswer{Server: from, Code: int(code.Code), Reason: string(code.Reason)}}, true
	}
	r := Result{From: from}
	var ok bool
	if r.Mapped, ok = address(m, pion.AttrXORMappedAddress); !ok {
		// Servers of RFC 3489's time send only this.
		if r.Mapped, ok = address(m, pion.AttrMappedAddress); !ok {
			return outcome{}, false
		}
	}
	r.Other, _ = address(m, pion.AttrOtherAddress)
	r.Origin, _ = address(m, pion.AttrResponseOrigin)
	if v, err := m.Get(attrOtherPort); err == nil && len(v) == 2 {
		r.OtherPort = uint16(v[0])<<8 | uint16(v[1])
	}
	return outcome{result: r}, true
}
