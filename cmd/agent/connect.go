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
	"rendezvous/proto"
)

// connect makes the agent's control connections (agent.Connect).
func connect(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*agent.Connection, error) {
	c, err := rendezvous.Dial(ctx, pc, addr, pin, cert)
	if err != nil {
		return nil, why(err)
	}
	return &agent.Connection{ControlConn: c, Addr: c.Addr(), Transport: "quic", RTT: c.RTT, Why: func() error { return why(c.Err()) }}, nil
}

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
