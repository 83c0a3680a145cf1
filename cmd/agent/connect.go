package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"rendezvous/internal/agent"
	"rendezvous/internal/rendezvous"
	"rendezvous/internal/stream"
	"rendezvous/proto"
)

// connect makes the agent's control connections (agent.Connect).
func connect(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*agent.Connection, error) {
	c, err := rendezvous.Dial(ctx, pc, addr, pin, cert)
	if err != nil {
		return nil, why(err)
	}
	return &agent.Connection{ControlConn: c, Addr: c.Addr(), Transport: "quic", RTT: c.RTT, Keep: c.Keep, Why: func() error { return why(c.Err()) }}, nil
}

// dialStreams makes carriers of public TCP ports' connections
// (agent.DialStreams).
func dialStreams(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (stream.Carrier, error) {
	d := rendezvous.NewDialer(pc)
	c, err := d.DialStreams(ctx, addr, pin, cert)
	if err != nil {
		return nil, errors.Join(why(err), d.Close())
	}
	return carrier{c, d}, nil
}

// carrier ends with the one connection of its dialer.
type carrier struct {
	stream.Carrier
	dialer *rendezvous.Dialer
}

// Close is stream.Carrier's.
func (c carrier) Close() error { return errors.Join(c.Carrier.Close(), c.dialer.Close()) }

// why puts the coordinator's refusals into the agent's terms.
func why(err error) error {
	var wrongKey *rendezvous.PinError
	switch {
	case errors.As(err, &wrongKey):
		return fmt.Errorf("%w: %w", agent.ErrWrongKey, err)
	case errors.Is(err, &rendezvous.CodeError{Code: proto.Code_CODE_REPLACED}):
		return fmt.Errorf("%w: %w", agent.ErrReplaced, err)
	case errors.Is(err, &rendezvous.CodeError{Code: proto.Code_CODE_REVOKED}):
		return fmt.Errorf("%w: %w", agent.ErrRevoked, err)
	}
	return err
}
