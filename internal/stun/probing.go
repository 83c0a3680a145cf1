package stun

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// sample is a new socket that spoke to the best server alone.
type sample struct {
	socket *socket
	mapped netip.AddrPort
	ok     bool
	done   chan struct{} // closed when mapped and ok are set
}

// take asks the server how it sees the socket.
func (s *sample) take(ctx context.Context, server netip.AddrPort) {
	defer close(s.done)
	r, err := s.socket.client.Bind(ctx, server)
	s.mapped, s.ok = r.Mapped, err == nil
}

// wait says whether the server answered.
func (s *sample) wait(ctx context.Context) bool {
	select {
	case <-s.done:
		return s.ok
	case <-ctx.Done():
		return false
	}
}

// filtering asks the server to answer from elsewhere, on a socket that sent
// nothing there (RFC 5780 section 4.4). Both questions at once: an answer that
// is filtered opens nothing.
func (s *survey) filtering(ctx context.Context, f *sample) (address, port passage) {
	if !f.wait(ctx) {
		return untold, untold
	}
	ctx, cancel := context.WithTimeout(ctx, s.silence())
	defer cancel()
	begun, enough := time.Now(), max(minSilence/2, s.best.RTT*3/2)
	ask := func(changeIP bool) passage {
		r, err := f.socket.client.Ask(ctx, s.server, changeIP, true)
		switch {
		case err == nil && r.From.Addr() != s.server.Addr():
			return passed // also where only a port was asked for
		case err == nil && r.From.Port() != s.server.Port() && !changeIP:
			return passed
		case errors.Is(err, context.DeadlineExceeded) && time.Since(begun) >= enough:
			return stopped
		}
		return untold // refused, or answered from where it was asked, or no time was left
	}
	other := make(chan passage, 1)
	go func() { other <- ask(true) }()
	port = ask(false)
	return <-other, port
}

// hairpin has two sockets send to each other's outside address, as two agents
// behind this NAT would. Both send, so that it is not the filtering that is
// tested once more.
func (s *survey) hairpin(ctx context.Context, a, b *sample) bool {
	if !a.wait(ctx) || !b.wait(ctx) || s.isOwn(a.mapped, a.socket) ||
		!mayAsk(a.mapped.Addr(), s.server.Addr()) || !mayAsk(b.mapped.Addr(), s.server.Addr()) {
		return false
	}
	// A hairpin is as near as the NAT; the server's round trip is ample.
	wait := min(max(s.best.RTT, minWait), minSilence/hairpinTries)
	for range hairpinTries {
		// A write that fails is a try that isn't answered.
		_ = a.socket.conn.Write(dgram.One(b.mapped, bindingRequest(b.socket.mark, 0)))
		_ = b.socket.conn.Write(dgram.One(a.mapped, bindingRequest(a.socket.mark, 0)))
		timer := time.NewTimer(wait)
		select {
		case <-a.socket.marked:
			timer.Stop()
			return true
		case <-b.socket.marked:
			timer.Stop()
			return true
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
		}
	}
	return false
}

const hairpinTries = 4
