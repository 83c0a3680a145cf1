package dgram

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// PlainStreams makes the host's own TCP connections from ports that nobody
// shares: those of local clients and services.
func PlainStreams() Streams { return plainStreams{} }

type plainStreams struct{}

// ListenTCP is Streams'.
func (plainStreams) ListenTCP(addr netip.AddrPort) (net.Listener, error) {
	if !addr.IsValid() {
		return nil, errors.New("listen on TCP: no address given; 127.0.0.1:0 takes any port")
	}
	addr = plainAddr(addr)
	var config net.ListenConfig
	config.SetMultipathTCP(false) // its sockets are no TCP sockets to splice and poll
	return config.Listen(context.Background(), tcpFamily(addr.Addr()), addr.String())
}

// DialTCP is Streams'; an invalid local address leaves the choice to the kernel.
func (plainStreams) DialTCP(ctx context.Context, local, remote netip.AddrPort) (net.Conn, error) {
	remote = plainAddr(remote)
	var dialer net.Dialer
	dialer.SetMultipathTCP(false)
	if local.IsValid() {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(plainAddr(local))
	}
	conn, err := dialer.DialContext(ctx, tcpFamily(remote.Addr()), remote.String())
	if err != nil {
		return nil, fmt.Errorf("connect to %v: %w", remote, bare(err))
	}
	return conn, nil
}
