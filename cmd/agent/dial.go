package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"rendezvous/internal/agent"
	"rendezvous/internal/rendezvous"
)

// stagger is how long one address may stay silent before the next is tried
// beside it (RFC 8305 section 5).
const stagger = 250 * time.Millisecond

// control is a control connection with the socket that it stands on.
type control struct {
	client *rendezvous.Client
	socket *net.UDPConn
}

func (c *control) close() error { return errors.Join(c.client.Close(), c.socket.Close()) }

// dialCoordinator connects to the address of the coordinator that answers
// first: its own port or STUN's, where it listens too, as some networks let
// only one of them pass.
func dialCoordinator(ctx context.Context, state *agent.State) (*control, error) {
	addrs, err := state.Coordinator().Addrs(ctx)
	if err != nil {
		return nil, err
	}
	own := len(addrs)
	for _, a := range addrs[:own] {
		if a.Port() != stunPort {
			addrs = append(addrs, netip.AddrPortFrom(a.Addr(), stunPort))
		}
	}
	certificate, err := state.Identity().Certificate()
	if err != nil {
		return nil, err
	}
	first, faults := race(ctx, addrs, own, func(ctx context.Context, at netip.AddrPort) (*control, error) {
		return dialAt(ctx, at, state.Coordinator().Pin, certificate)
	})
	if first == nil {
		return nil, tellFaults(faults, own)
	}
	return first, nil
}

// tellFaults makes one line of what the coordinator's own addresses gave. What
// a port gave that nobody named says nothing: another coordinator may have it.
func tellFaults(faults []error, own int) error {
	words := make([]string, own)
	for i, err := range faults[:own] {
		var wrongKey *rendezvous.PinError
		if errors.As(err, &wrongKey) {
			return err // says more than another address's silence
		}
		words[i] = err.Error()
	}
	return errors.New(strings.Join(words, "; "))
}

func dialAt(ctx context.Context, at netip.AddrPort, pin [32]byte, certificate tls.Certificate) (*control, error) {
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, fmt.Errorf("open a UDP socket: %w", err)
	}
	client, err := rendezvous.Dial(ctx, socket, at, pin, certificate)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return &control{client, socket}, nil
}

type dialed struct {
	which   int
	control *control
	err     error
}

// race dials the addresses one after the other, without waiting for one to
// fail, and returns the first that answers, or else each one's fault. It gives
// up when one of the first own has another key. All dialing has ended when it
// returns.
func race(ctx context.Context, addrs []netip.AddrPort, own int, dial func(context.Context, netip.AddrPort) (*control, error)) (first *control, faults []error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan dialed)
	for i, at := range addrs {
		go func() {
			wait := time.NewTimer(time.Duration(i) * stagger)
			defer wait.Stop()
			select {
			case <-wait.C:
				c, err := dial(ctx, at)
				results <- dialed{i, c, err}
			case <-ctx.Done():
				results <- dialed{i, nil, fmt.Errorf("%s: %w", at, ctx.Err())}
			}
		}()
	}
	faults = make([]error, len(addrs))
	for range addrs {
		r := <-results
		var wrongKey *rendezvous.PinError
		switch {
		case r.err == nil && first == nil:
			first = r.control
			cancel()
		case r.err == nil:
			_ = r.control.close() // it came second; nothing was said on it
		case r.which < own && errors.As(r.err, &wrongKey):
			cancel()
		}
		faults[r.which] = r.err
	}
	return first, faults
}
