package stun

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// IdleCliffs are the lifetimes that NATs have (Hatonen et al. 2010, Richter et
// al. 2016), and that Idle looks for.
var IdleCliffs = []time.Duration{10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 3 * time.Minute}

const (
	// idleSlack is added to each wait: a lifetime that is the cliff itself is
	// not one that outlasts it.
	idleSlack = time.Second
	// streamAfter is when a second datagram makes connection tracking of Linux
	// take a flow for a stream, with the lifetime that data would have.
	streamAfter = 2500 * time.Millisecond
	idleAnswer  = 2 * time.Second // for an answer that may never come
)

// ErrNoIdle is the error of Idle where nothing can be found out: the server does
// not answer to other ports (RESPONSE-PORT), or the NAT has several addresses.
var ErrNoIdle = errors.New("the lifetime of idle mappings can't be measured with this STUN server")

// Idle finds out how long the NAT here keeps a mapping that nothing crosses, on
// two sockets of its own and with a few datagrams for each of IdleCliffs (RFC
// 5780 section 4.6). It takes as long as the lifetime and a little more, ten
// minutes at most. What it returns is the longest of IdleCliffs that a mapping
// outlasts, 0 where none.
func Idle(ctx context.Context, network dgram.Network, server netip.AddrPort) (time.Duration, error) {
	local := dgram.Any(server.Addr())
	held, err := open(network, local)
	if err != nil {
		return 0, fmt.Errorf("measure the lifetime of idle mappings: %w", err)
	}
	defer held.close()
	asker, err := open(network, local)
	if err != nil {
		return 0, fmt.Errorf("measure the lifetime of idle mappings: %w", err)
	}
	defer asker.close()
	i := idle{held: held, asker: asker, server: plain(server)}
	if alive, err := i.outlasts(ctx, 0); err != nil || !alive {
		return 0, cmp.Or(err, ErrNoIdle)
	}
	var lifetime time.Duration
	for _, cliff := range IdleCliffs {
		// Twice: a host that sleeps meanwhile, or a loss, looks like an end.
		alive := false
		for range 2 {
			if alive, err = i.outlasts(ctx, cliff+idleSlack); err != nil {
				return 0, err
			} else if alive {
				break
			}
		}
		if !alive {
			break
		}
		lifetime = cliff
	}
	return lifetime, nil
}

// idle is a measurement under way.
type idle struct {
	held   *socket // whose mapping is left alone
	asker  *socket
	server netip.AddrPort
	mapped netip.AddrPort // of held
	stream bool           // it has sent more than once
}

// refresh begins the mapping's idle time.
func (i *idle) refresh(ctx context.Context) error {
	for {
		asking, cancel := context.WithTimeout(ctx, idleAnswer)
		r, err := i.held.client.Bind(asking, i.server)
		cancel()
		if err != nil {
			return err
		}
		if i.mapped = r.Mapped; i.stream {
			return nil
		}
		i.stream = true
		if !pause(ctx, streamAfter) {
			return context.Cause(ctx)
		}
	}
}

// outlasts says whether a mapping that nothing crosses for so long still lets in
// what is sent to it.
func (i *idle) outlasts(ctx context.Context, d time.Duration) (bool, error) {
	if err := i.refresh(ctx); err != nil {
		return false, err
	}
	if d > 0 && !pause(ctx, d) {
		return false, context.Cause(ctx)
	}
	asking, cancel := context.WithTimeout(ctx, idleAnswer)
	defer cancel()
	r, err := i.asker.client.Bind(asking, i.server)
	if err != nil {
		return false, err // the server is away, or the network
	}
	if r.Mapped.Addr() != i.mapped.Addr() {
		return false, ErrNoIdle
	}
	again, cancel := context.WithTimeout(ctx, idleAnswer)
	defer cancel()
	if _, err = i.held.client.Reach(again, i.server, i.mapped.Port(), i.asker.write); err == nil {
		return true, nil
	}
	return false, context.Cause(ctx)
}
