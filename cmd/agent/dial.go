package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
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

// tlsPorts are those where a coordinator is most likely behind TLS, besides its
// own; the others that it may be behind follow.
var tlsPorts = []uint16{443, 8443, 80}

// dialCoordinator connects by whatever answers first: UDP, or a moment later
// TLS, which passes where the web does, also through a proxy.
func dialCoordinator(ctx context.Context, state *agent.State) (*control, error) {
	certificate, err := state.Identity().Certificate()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results, failed := make(chan dialed), make(chan struct{})
	go func() {
		c, err := dialUDP(ctx, state, certificate)
		if err != nil {
			close(failed)
		}
		results <- dialed{0, c, err}
	}()
	go func() {
		c, err := dialTLS(ctx, state, certificate, failed)
		results <- dialed{1, c, err}
	}()
	first, faults := firstOf(results, 2, 0, cancel)
	var wrongKey *rendezvous.PinError
	switch {
	case first != nil:
		return first, nil
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
	case <-begin(wait, c):
	case <-failed:
	case <-ctx.Done():
		return nil, nil
	}
	ports := []string{own}
	for _, n := range slices.Concat(tlsPorts, agent.LikelyPorts()) {
		if port := strconv.Itoa(int(n)); !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	// Another key on one port is no reason to leave the others: boxes that open
	// TLS do so on some ports alone.
	first, faults := race(ctx, ports, 0, func(ctx context.Context, port string) (*control, error) {
		client, err := rendezvous.DialTLS(ctx, net.JoinHostPort(host, port), c.Pin, certificate)
		if err != nil {
			return nil, err
		}
		return &control{client: client}, nil
	})
	if first == nil {
		return nil, faults[0]
	}
	return first, nil
}

// begin is when TLS is tried beside UDP: never under a veil, as TLS has none.
func begin(wait *time.Timer, c agent.Coordinator) <-chan time.Time {
	if c.Veil {
		return nil
	}
	return wait.C
}

// dialUDP connects to the address of the coordinator that answers first: its
// own port or STUN's, where it listens too, as some networks let only one of
// them pass, or any other that may lead to it.
func dialUDP(ctx context.Context, state *agent.State, certificate tls.Certificate) (*control, error) {
	addrs, err := state.Coordinator().Addrs(ctx)
	if err != nil {
		return nil, err
	}
	own := len(addrs)
	for _, port := range append([]uint16{stunPort}, agent.LikelyPorts()...) {
		for _, a := range addrs[:own] {
			if at := netip.AddrPortFrom(a.Addr(), port); !slices.Contains(addrs, at) {
				addrs = append(addrs, at)
			}
		}
	}
	first, faults := race(ctx, addrs, own, func(ctx context.Context, at netip.AddrPort) (*control, error) {
		return dialAt(ctx, at, state.Coordinator(), certificate)
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

func dialAt(ctx context.Context, at netip.AddrPort, c agent.Coordinator, certificate tls.Certificate) (*control, error) {
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, fmt.Errorf("open a UDP socket: %w", err)
	}
	hidden, err := c.Hide(socket)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	client, err := rendezvous.Dial(ctx, hidden, at, c.Pin, certificate)
	if err != nil {
		return nil, errors.Join(err, socket.Close())
	}
	return &control{client, socket}, nil
}

// turn is when the i-th place is dialed: those behind the likely ones follow
// each other faster.
func turn(i int) time.Duration {
	const likely = 4
	return time.Duration(min(i, likely))*stagger + time.Duration(max(0, i-likely))*stagger/5
}

type dialed struct {
	which   int
	control *control // nil where err is not, or where there was no time to dial
	err     error
}

// race dials the places one after the other, without waiting for one to fail,
// and returns the first that answers, or else each one's fault. It gives up
// when one of the first own has another key. All dialing has ended when it
// returns.
func race[Place any](ctx context.Context, places []Place, own int, dial func(context.Context, Place) (*control, error)) (first *control, faults []error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan dialed)
	for i, at := range places {
		go func() {
			if !path.Wait(ctx, turn(i)) {
				results <- dialed{i, nil, fmt.Errorf("%v: %w", at, ctx.Err())}
				return
			}
			c, err := dial(ctx, at)
			results <- dialed{i, c, err}
		}()
	}
	return firstOf(results, len(places), own, cancel)
}

// firstOf takes n results in: it cancels the others once one has connected, or
// one of the first own has met another key.
func firstOf(results <-chan dialed, n, own int, cancel context.CancelFunc) (first *control, faults []error) {
	faults = make([]error, n)
	for range n {
		r := <-results
		var wrongKey *rendezvous.PinError
		switch {
		case r.control != nil && first == nil:
			first = r.control
			cancel()
		case r.control != nil:
			_ = r.control.close() // it came second; nothing was said on it
		case r.which < own && errors.As(r.err, &wrongKey):
			cancel()
		}
		faults[r.which] = r.err
	}
	return first, faults
}
