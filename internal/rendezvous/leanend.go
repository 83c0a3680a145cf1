package rendezvous

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"rendezvous/internal/lean"
)

// exportLabel names the keys of a lean connection among those that TLS exports
// (RFC 8446 section 7.5).
const exportLabel = "EXPORTER-rendezvous-lean-v1"

// leanKeys are those of the agent's end and of the coordinator's.
func leanKeys(conn *quic.Conn, id lean.ID) (agent, coordinator [lean.KeySize]byte, err error) {
	tls := conn.ConnectionState().TLS
	keys, err := tls.ExportKeyingMaterial(exportLabel, id[:], 2*lean.KeySize)
	if err != nil {
		return agent, coordinator, err
	}
	return [lean.KeySize]byte(keys), [lean.KeySize]byte(keys[lean.KeySize:]), nil
}

// leanEnd is an end of a lean connection: a Link with a socket, time and a
// lock. It is a carrier, and the writing half of a control stream.
type leanEnd struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	word   string

	mu     sync.Mutex
	link   *lean.Link
	send   func(to netip.AddrPort, d []byte) // where the other end was heard last
	remote netip.AddrPort
	heard  uint64
	timer  *time.Timer   // of what is not acknowledged; nil before the first
	room   chan struct{} // made for who waits to write
	limit  time.Time     // until when it does
}

func newLeanEnd(link *lean.Link, remote netip.AddrPort, word string, send func(netip.AddrPort, []byte)) *leanEnd {
	e := &leanEnd{link: link, remote: remote, word: word, send: send}
	e.ctx, e.cancel = context.WithCancelCause(context.Background())
	return e
}

// ended is that of carrier.
func (e *leanEnd) ended() context.Context { return e.ctx }

// end is that of carrier.
func (e *leanEnd) end(code quic.ApplicationErrorCode, text string) error {
	e.mu.Lock()
	last, to, send := e.link.Close(uint64(code), text), e.remote, e.send
	e.mu.Unlock()
	if e.ctx.Err() == nil {
		send(to, last)
	}
	e.finish(&quic.ApplicationError{ErrorCode: code, ErrorMessage: text})
	return nil
}

// finish ends the connection on this side. The first cause is kept.
func (e *leanEnd) finish(cause error) {
	e.cancel(cause)
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
	}
}

// look is that of carrier.
func (e *leanEnd) look() look {
	e.mu.Lock()
	defer e.mu.Unlock()
	return look{e.remote, e.link.RoundTrip(), e.word, e.heard}
}

// ask is that of carrier: what the stream brings is acknowledged.
func (e *leanEnd) ask() {}

// ping wants a sign of life.
func (e *leanEnd) ping() {
	e.mu.Lock()
	d, to, send := e.link.Ask(), e.remote, e.send
	e.mu.Unlock()
	send(to, d)
}

// receive takes a datagram from an address, and gives what it brought. It says
// false where the other end has not made it. Who calls it from several
// goroutines has a lock around it and what is done with the bytes, whose order
// counts. Only what is newer is a sign of life: anybody can send the rest again.
func (e *leanEnd) receive(now time.Time, from netip.AddrPort, send func(netip.AddrPort, []byte), d []byte) (lean.Received, bool) {
	e.mu.Lock()
	r, err := e.link.Receive(now, d)
	if errors.Is(err, lean.ErrForged) {
		e.mu.Unlock()
		return r, false
	}
	if r.Newer {
		e.remote, e.send = from, send
		e.heard++
	}
	to := e.remote
	e.wait(now)
	if e.room != nil && e.link.Room() > 0 {
		close(e.room)
		e.room = nil
	}
	e.mu.Unlock()
	for _, each := range r.Send {
		send(to, each)
	}
	var closed *lean.Closed
	switch {
	case errors.As(err, &closed):
		e.finish(&quic.ApplicationError{Remote: true, ErrorCode: quic.ApplicationErrorCode(closed.Code), ErrorMessage: closed.Text})
	case err != nil:
		_ = e.end(closeProtocol, err.Error())
	}
	return r, true
}

// wait sets the timer for what is due next.
func (e *leanEnd) wait(now time.Time) {
	due := e.link.Due()
	switch {
	case due.IsZero() && e.timer != nil:
		e.timer.Stop()
	case due.IsZero() || e.ctx.Err() != nil:
	case e.timer == nil:
		e.timer = time.AfterFunc(due.Sub(now), e.retry)
	default:
		e.timer.Reset(due.Sub(now))
	}
}

// retry sends again what was not acknowledged.
func (e *leanEnd) retry() {
	now := time.Now()
	e.mu.Lock()
	all, err := e.link.Retry(now)
	e.wait(now)
	send, to := e.send, e.remote
	e.mu.Unlock()
	for _, each := range all {
		send(to, each)
	}
	if err != nil {
		e.finish(&quic.IdleTimeoutError{})
	}
}

// Write is that of controlStream. It waits while too much is unacknowledged.
func (e *leanEnd) Write(b []byte) (int, error) {
	done := 0
	for {
		now := time.Now()
		e.mu.Lock()
		n := min(len(b)-done, e.link.Room())
		all := e.link.Write(now, b[done:done+n])
		e.wait(now)
		if n == 0 && e.room == nil {
			e.room = make(chan struct{})
		}
		send, to, room, limit := e.send, e.remote, e.room, e.limit
		e.mu.Unlock()
		for _, each := range all {
			send(to, each)
		}
		if done += n; done == len(b) || e.ctx.Err() != nil {
			return done, context.Cause(e.ctx)
		}
		if n == 0 {
			if err := e.await(room, limit); err != nil {
				return done, err
			}
		}
	}
}

// await waits for room to write.
func (e *leanEnd) await(room <-chan struct{}, limit time.Time) error {
	var late <-chan time.Time
	if !limit.IsZero() {
		timer := time.NewTimer(time.Until(limit))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-room:
		return nil
	case <-late:
		return os.ErrDeadlineExceeded
	case <-e.ctx.Done():
		return context.Cause(e.ctx)
	}
}

// SetWriteDeadline is that of controlStream.
func (e *leanEnd) SetWriteDeadline(t time.Time) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.limit = t
	return nil
}
