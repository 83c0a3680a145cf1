package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"

	"rendezvous/internal/agent"
	"rendezvous/internal/rendezvous"
)

// connect makes the agent's control connections (agent.Connect).
func connect(ctx context.Context, pc net.PacketConn, addr netip.AddrPort, pin [32]byte, cert tls.Certificate) (*agent.Connection, error) {
	c, err := rendezvous.Dial(ctx, pc, addr, pin, cert)
	if err != nil {
		return nil, err
	}
	return &agent.Connection{ControlConn: c, Addr: c.Addr(), RTT: c.RTT, Why: c.Err}, nil
}
