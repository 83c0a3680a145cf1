package faketcp

import (
	"fmt"
	"net"
	"net/netip"

	"rendezvous/internal/dgram"
)

// System makes fake TCP sockets of this host. The error is a *path.Failure
// where the host or its user can't: reason "unprivileged" or "unsupported".
func System(o Options) (dgram.FakeTCP, error) {
	if err := o.Check(); err != nil {
		return nil, fmt.Errorf("fake TCP: %w", err)
	}
	if err := available(); err != nil {
		return nil, err
	}
	return system{o}, nil
}

type system struct{ opts Options }

// ListenFakeTCP is dgram.FakeTCP's; the result is a *Conn.
func (s system) ListenFakeTCP(addr netip.AddrPort, beside net.Listener) (dgram.Opener, error) {
	if !addr.IsValid() {
		return nil, fmt.Errorf("listen on fake TCP: no address given; 0.0.0.0:0 or [::]:0 takes any")
	}
	d, err := openDevice(netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port()), beside)
	if err != nil {
		return nil, err
	}
	return newConn(d, s.opts, beside != nil), nil
}
