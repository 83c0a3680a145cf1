package main

import (
	"context"
	"crypto/tls"
	"errors"

	"rendezvous/internal/agent"
	"rendezvous/internal/dgram"
	"rendezvous/internal/faketcp"
	"rendezvous/internal/fastpath"
	"rendezvous/internal/path"
	"rendezvous/internal/portmap"
	"rendezvous/internal/rendezvous"
)

// equip gives cfg all that this host has to reach others with. What it lacks is
// left out, with the reason; the rest works without.
func equip(cfg *agent.Config) {
	options := dgram.DefaultOptions()
	options.Offload = cfg.Offload
	cfg.Host.Net, cfg.Host.TCP = dgram.System(options), dgram.SystemStreams()
	cfg.Host.Changes = dgram.Changes
	cfg.Host.Local, cfg.Host.Gateways = dgram.PlainStreams(), portmap.SystemGateways
	cfg.Host.FakeTCP, cfg.Host.NoFakeTCP = fakeTCP(cfg.Disguise)
	if cfg.FastPath {
		cfg.Host.FastPath.Kernel, cfg.Host.FastPath.Lacks = fastpath.Open()
	}
	cfg.Dialers.Connect, cfg.Dialers.ConnectTLS, cfg.Dialers.RelayTLS = connect, connectTLS, rendezvous.RelayTLS
	cfg.Dialers.Splice = rendezvous.Splice
	cfg.Dialers.Streams, cfg.Dialers.StreamsTLS = dialStreams, new(rendezvous.TLSDialer).DialStreams
}

// fakeTCP is the host's, or why it has none.
func fakeTCP(o faketcp.Options) (dgram.FakeTCP, *path.Failure) {
	fake, err := faketcp.System(o)
	var why *path.Failure
	switch {
	case err == nil:
		return fake, nil
	case errors.As(err, &why):
		return nil, why
	}
	return nil, &path.Failure{Reason: "unsupported", Evidence: err.Error(), Skipped: true}
}

// connectTLS makes the agent's control connections over TLS
// (agent.ConnectTLS).
func connectTLS(ctx context.Context, at string, pin [32]byte, cert tls.Certificate) (*agent.Connection, error) {
	c, err := rendezvous.DialTLS(ctx, at, pin, cert)
	if err != nil {
		return nil, why(err)
	}
	return &agent.Connection{ControlConn: c, Addr: c.Addr(), Transport: "tls", Via: c.Via(), RTT: c.RTT, Why: func() error { return why(c.Err()) }}, nil
}
