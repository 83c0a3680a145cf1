package meet

import (
	"context"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"rendezvous/internal/icmp"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// Bell is how one side calls the other, which does not know where it is, over
// ICMP (package icmp). An experiment.
type Bell struct {
	Conn   icmp.Conn
	Secret seal.Secret
	When   Window
}

const (
	// echoPace keeps the NAT's entry of the echo request (Linux: 30 s) well alive.
	echoPace = 5 * time.Second
	ringPace = 2 * time.Second
	// callFor is how old a call may be: nobody should be able to send recorded
	// ones for ever, and clocks differ.
	callFor = 10 * time.Minute
)

// Wait sends echo requests from the time on, and gives the address of who calls
// (Config.Learn). It closes the conn. Where nobody does, the error is a
// *path.Failure.
func (b *Bell) Wait(ctx context.Context) (netip.AddrPort, error) {
	defer func() { _ = b.Conn.Close() }()
	if !path.Wait(ctx, time.Until(b.When.At)) {
		return netip.AddrPort{}, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, b.When.For)
	defer cancel()
	found := make(chan netip.AddrPort, 1)
	var strange atomic.Int64
	over := make(chan struct{})
	defer func() { _ = b.Conn.Close(); <-over }()
	go func() {
		defer close(over)
		for {
			from, message, err := b.Conn.Receive()
			if err != nil {
				return
			}
			if at, ok := b.called(from, message, time.Now()); ok {
				give(found, at)
			} else {
				strange.Add(1)
			}
		}
	}()
	tick := time.NewTicker(echoPace)
	defer tick.Stop()
	var fault error
	for {
		if err := b.Conn.Send(icmp.Nowhere, icmp.AppendEcho(nil)); err != nil {
			fault = err
		}
		select {
		case at := <-found:
			return at, nil
		case <-tick.C:
		case <-ctx.Done():
			return netip.AddrPort{}, b.nobody(strange.Load(), fault)
		}
	}
}

func (b *Bell) nobody(strange int64, fault error) *path.Failure {
	f := &path.Failure{Reason: "no-call", Evidence: fmt.Sprintf("no call came over ICMP in %v", b.When.For),
		Advice: "compare the time, the secret, and --peer there with the outside address here; many NATs and carriers drop such messages, so that addresses on both sides (--peer) have to do"}
	if strange > 0 {
		f.Evidence += fmt.Sprintf(", but %d messages that are none, or made with another secret", strange)
	}
	if fault != nil {
		f.Evidence += ", and echo requests did not leave: " + fault.Error()
	}
	return f
}

// called reads a call: who knows the secret says where it is, or leaves the
// address to what its NAT made of it.
func (b *Bell) called(from netip.Addr, message []byte, now time.Time) (netip.AddrPort, bool) {
	data, err := icmp.ParseExceeded(message)
	if err != nil {
		return netip.AddrPort{}, false
	}
	c, err := proto.ParseCall(data)
	if err != nil || !seal.CheckCall(b.Secret, c) || now.Sub(time.Unix(c.Made, 0)).Abs() > callFor {
		return netip.AddrPort{}, false
	}
	at := c.At
	if at.Addr().IsUnspecified() {
		at = netip.AddrPortFrom(from.Unmap(), at.Port())
	}
	return at, path.Refuse(at, true) == ""
}

// Ring calls who waits at an address until ctx ends. mine is where we are seen;
// its address is unspecified where that is not known (Config.Call).
func (b *Bell) Ring(ctx context.Context, waiting netip.Addr, mine netip.AddrPort) {
	for {
		c := proto.Call{At: mine, Made: time.Now().Unix()}
		c.MAC = seal.CallMAC(b.Secret, c)
		_ = b.Conn.Send(waiting, icmp.AppendExceeded(nil, waiting, proto.AppendCall(nil, c))) // the next may pass
		if !path.Wait(ctx, ringPace) {
			return
		}
	}
}
