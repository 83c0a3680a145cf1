package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

const (
	dialWithin  = 5 * time.Second
	dialStagger = 250 * time.Millisecond // RFC 8305 section 8: Connection Attempt Delay
)

// dialed is what came of dialing one family of addresses.
type dialed struct {
	client *Connection
	addr   netip.AddrPort
	err    error
}

// dial tries the coordinator's addresses: those of one family in turn, for
// they share a socket, and both families side by side, the second after a
// moment, since a family that leads nowhere costs seconds (RFC 8305).
func (l *link) dial(ctx context.Context) (*Connection, netip.AddrPort, error) {
	addrs, err := l.a.cfg.State.Coordinator().Addrs(ctx)
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	cert, err := l.a.id.Certificate()
	if err != nil {
		return nil, netip.AddrPort{}, err
	}
	lists := l.families(addrs)
	if len(lists) == 0 {
		return nil, netip.AddrPort{}, fmt.Errorf("no address of the coordinator is of a family that this host has: %v", addrs)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan dialed, len(lists))
	failed := make(chan struct{})
	for i, list := range lists {
		go func() {
			if i > 0 {
				headStart(ctx, failed)
			}
			results <- l.dialFamily(ctx, list, cert)
		}()
	}
	var won dialed
	var faults []error
	for range lists {
		switch d := <-results; {
		case d.err != nil:
			if faults = append(faults, d.err); len(faults) == 1 {
				close(failed)
			}
		case won.client == nil:
			won = d
			cancel()
		default: // a moment too late
			_ = d.client.Close()
		}
	}
	if won.client == nil {
		return nil, netip.AddrPort{}, errors.Join(faults...)
	}
	return won.client, won.addr, nil
}

// headStart lets the first family go ahead, unless it fails sooner.
func headStart(ctx context.Context, failed <-chan struct{}) {
	timer := time.NewTimer(dialStagger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-failed:
	case <-ctx.Done():
	}
}

// families sorts addresses by the socket that reaches them, in the order of
// the first of each, and leaves out those that no socket of ours can reach.
func (l *link) families(addrs []netip.AddrPort) (lists [][]netip.AddrPort) {
	at := make(map[*endpoint]int)
	for _, addr := range addrs {
		e := l.a.mainFor(addr)
		if e == nil || !l.a.hasFamily(e.is4()) && !addr.Addr().IsLoopback() {
			continue
		}
		i, known := at[e]
		if !known {
			i = len(lists)
			at[e] = i
			lists = append(lists, nil)
		}
		lists[i] = append(lists[i], addr)
	}
	return lists
}

// dialFamily tries addresses that one socket reaches.
func (l *link) dialFamily(ctx context.Context, addrs []netip.AddrPort, cert tls.Certificate) dialed {
	var faults []error
	for _, addr := range addrs {
		if ctx.Err() != nil {
			faults = append(faults, ctx.Err())
			break
		}
		e := l.a.mainFor(addr)
		dctx, cancel := context.WithTimeout(ctx, dialWithin)
		pc := e.quic.open(e.conn, addr)
		client, err := l.a.cfg.Connect(dctx, pc, addr, l.a.cfg.State.Coordinator().Pin, cert)
		cancel()
		if err == nil {
			return dialed{client: client, addr: addr}
		}
		e.quic.shut(addr, pc)
		faults = append(faults, fmt.Errorf("dial coordinator %v: %w", addr, err))
	}
	return dialed{err: errors.Join(faults...)}
}

func (a *Agent) mainFor(addr netip.AddrPort) *endpoint {
	for _, e := range a.mains {
		if e.is4() == addr.Addr().Unmap().Is4() {
			return e
		}
	}
	return nil
}
