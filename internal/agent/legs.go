package agent

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/faketcp"
	"rendezvous/internal/path"
	"rendezvous/internal/relay"
)

// endpoint makes a conn our leg's and reads it.
func (r *relayRung) endpoint(conn dgram.Conn, far netip.AddrPort) (*endpoint, error) {
	leg, err := relay.NewLeg(conn, far, r.alloc)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	e := newEndpoint(conn, r.kind, r.as.a.board)
	e.owner, e.leg = r.as.Session, leg
	r.as.keep(e)
	return e, nil
}

// overUDP opens a UDP socket for the leg.
func (r *relayRung) overUDP() (*endpoint, error) {
	conn, far, err := overUDP(r.as.a.cfg.Host.Net, r.alloc)
	if err != nil {
		return nil, err
	}
	return r.endpoint(conn, far)
}

// overFakeTCP opens a socket for the leg whose datagrams look like TCP, and
// sees whether they cross whole.
func (r *relayRung) overFakeTCP(ctx context.Context, far netip.AddrPort) (*endpoint, error) {
	conn, err := r.as.a.overFakeTCP(far)
	if err != nil {
		return nil, err
	}
	e, err := r.endpoint(conn, far)
	if err != nil {
		return nil, err
	}
	if err := conn.Open(ctx, far); err != nil {
		r.as.discard([]*endpoint{e})
		return nil, err
	}
	withdraw := r.promises()
	if err := whole(ctx, conn, far); err != nil {
		withdraw()
		r.as.discard([]*endpoint{e})
		return nil, err
	}
	return e, nil
}

// whole is nil where datagrams cross a way as they are; else why not: a box on
// it takes the stream apart.
func whole(ctx context.Context, conn dgram.Opener, far netip.AddrPort) error {
	c, ok := conn.(interface {
		Check(ctx context.Context, to netip.AddrPort) (faketcp.Verdict, error)
	})
	if !ok {
		return nil
	}
	v, err := c.Check(ctx, far)
	if err != nil {
		return err
	}
	return v.Failure(far)
}

// overTLS opens a stream for the leg.
func (r *relayRung) overTLS(ctx context.Context, at string) (*endpoint, error) {
	conn, far, err := r.as.a.overTLS(ctx, at)
	if err != nil {
		return nil, err
	}
	e, err := r.endpoint(conn, far)
	if err != nil {
		return nil, err
	}
	e.door = at // nobody else looks before addLeg
	return e, nil
}

// firstOpen tries doors one after the other, each a moment after the one
// before or at once when that has failed, and returns the first that opens
// (RFC 8305 section 5).
func firstOpen[D any](ctx context.Context, as *association, doors []D, open func(context.Context, D) (*endpoint, error)) (*endpoint, error) {
	doors = doors[:min(len(doors), maxDoorsTried)]
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan opened, len(doors))
	timer := time.NewTimer(0)
	defer timer.Stop()
	var first *endpoint
	var faults []error
	for next, running := 0, 0; next < len(doors) || running > 0; {
		select {
		case <-timer.C:
			if next == len(doors) {
				continue
			}
			at := doors[next]
			next, running = next+1, running+1
			go func() {
				e, err := open(ctx, at)
				results <- opened{e, err}
			}()
			timer.Reset(doorStagger)
		case o := <-results:
			running--
			switch {
			case o.err != nil:
				faults = append(faults, o.err)
				timer.Reset(0)
			case first == nil:
				first, next = o.e, len(doors)
				cancel()
			default: // a moment too late
				as.discard([]*endpoint{o.e})
			}
		}
	}
	if first == nil {
		return nil, errors.Join(faults...)
	}
	return first, nil
}

// opened is what came of one door.
type opened struct {
	e   *endpoint
	err error
}

func (as *association) addLeg(e *endpoint) {
	as.pace(e, as.a.keepalive())
	as.mu.Lock()
	as.sockets.legs = append(as.sockets.legs, e)
	as.mu.Unlock()
}

// removeLeg forgets the leg on e and says how many are left.
func (as *association) removeLeg(e *endpoint) int {
	as.mu.Lock()
	defer as.mu.Unlock()
	as.sockets.legs = slices.DeleteFunc(as.sockets.legs, func(k *endpoint) bool { return k == e })
	return len(as.sockets.legs)
}

// hasLeg says whether there is a leg of that kind.
func (as *association) hasLeg(k path.Kind) bool {
	as.mu.Lock()
	defer as.mu.Unlock()
	return slices.ContainsFunc(as.sockets.legs, func(e *endpoint) bool { return e.kind == k })
}

// keepLeg refreshes a leg until it ends; a relay that no longer knows it (the
// coordinator was restarted), or a stream that broke, makes us ask for another
// allocation.
func (as *association) keepLeg(e *endpoint) {
	ctx, cancel := context.WithCancel(as.ctx)
	defer cancel()
	as.a.tasks.start(func(context.Context) {
		select {
		case <-e.ended:
			cancel()
		case <-ctx.Done():
		}
	})
	_ = e.leg.Keep(ctx) // either way the leg is over
	left := as.removeLeg(e)
	if as.ctx.Err() != nil {
		return
	}
	as.Drop(path.Path{Conn: e.conn, Addr: e.leg.Addr()})
	as.discard([]*endpoint{e})
	if left == 0 {
		as.needSpare()
	}
}
