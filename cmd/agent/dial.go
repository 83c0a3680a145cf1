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
	"rendezvous/internal/path"
	"rendezvous/internal/rendezvous"
)

// stagger is how long one address may stay silent before the next is tried
// beside it (RFC 8305 section 5).
const stagger = 250 * time.Millisecond

// control is a control connection with the socket that it stands on, nil over
// TLS.
type control struct {
	client *rendezvous.Client
	socket *net.UDPConn
}

func (c *control) close() error {
	err := c.client.Close()
	if c.socket != nil {
		err = errors.Join(err, c.socket.Close())
	}
	return err
}

// tlsBegins is the head start of UDP, which most networks let pass.
const tlsBegins = 500 * time.Millisecond

// tlsPorts are those where a coordinator may be behind TLS, besides its own.
var tlsPorts = []string{"443", "8443", "80"}

// dialCoordinator connects by whatever answers first: UDP, or a moment later
// TLS, which passes where the web does, also through a proxy.
func dialCoordinator(ctx context.Context, state *agent.State) (*control, error) {
	certificate, err := state.Identity().Certificate()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type end struct {
		control *control
		err     error
	}
	udp, over := make(chan end, 1), make(chan end, 1)
	failed := make(chan struct{})
	go func() {
		c, err := dialUDP(ctx, state, certificate)
		if err != nil {
			close(failed)
		}
		udp <- end{c, err}
	}()
	go func() {
		c, err := dialTLS(ctx, state, certificate, failed)
		over <- end{c, err}
	}()
	var won *control
	faults := make([]error, 2)
	for range faults {
		var e end
		which := 0
		select {
		case e = <-udp:
		case e = <-over:
			which = 1
		}
		faults[which] = e.err
		switch {
		case e.control != nil && won == nil:
			won = e.control
			cancel()
		case e.control != nil:
			_ = e.control.close() // it came second; nothing was said on it
		}
	}
	var wrongKey *rendezvous.PinError
	switch {
	case won != nil:
		return won, nil
	case faults[1] == nil, errors.As(faults[0], &wrongKey):
		return nil, faults[0]
	}
	return nil, fmt.Errorf("%w; %w", faults[0], faults[1])
}

// dialTLS tries the likely ports one beside the other, once UDP has had its
// head start or failed; nil and nil where ctx ends before.
func dialTLS(ctx context.Context, state *agent.State, certificate tls.Certificate, failed <-chan struct{}) (*control, error) {
	c := state.Coordinator()
	host, own, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return nil, err
	}
	wait := time.NewTimer(tlsBegins)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-failed:
	case <-ctx.Done():
		return nil, nil
	}
	ports := []string{own}
	for _, port := range tlsPorts {
		if port != own {
			ports = append(ports, port)
		}
	}
	results := make(chan dialed)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i, port := range ports {
		go func() {
			if !path.Wait(ctx, time.Duration(i)*stagger) {
				results <- dialed{i, nil, ctx.Err()}
				return
			}
			client, err := rendezvous.DialTLS(ctx, net.JoinHostPort(host, port), c.Pin, certificate)
			if err != nil {
				results <- dialed{i, nil, err}
				return
			}
			results <- dialed{i, &control{client: client}, nil}
		}()
	}
	var won *control
	faults := make([]error, len(ports))
	for range ports {
		r := <-results
		faults[r.which] = r.err
		switch {
		case r.control != nil && won == nil:
			won = r.control
			cancel()
		case r.control != nil:
			_ = r.control.close()
		}
	}
	if won != nil {
		return won, nil
	}
	return nil, faults[0]
}

// dialUDP connects to the address of the coordinator that answers first: its
// own port or STUN's, where it listens too, as some networks let only one of
// them pass.
func dialUDP(ctx context.Context, state *agent.State, certificate tls.Certificate) (*control, error) {
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
