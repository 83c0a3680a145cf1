package forward

import (
	"fmt"
	"net/netip"

	"rendezvous/internal/dgram"
)

// Far is one client's socket before a service: the service tells clients apart
// by its address.
type Far struct {
	Conn    dgram.Conn
	aliases *Aliases // where its source came from; nil: the kernel's choice
	client  Client
}

// Before opens a client's socket before the service at an address. With aliases
// it has the client's own loopback address, until it is closed.
func Before(net dgram.Network, service netip.AddrPort, aliases *Aliases, c Client) (*Far, error) {
	if aliases == nil {
		conn, err := net.ListenUDP(dgram.Near(service.Addr()))
		return &Far{Conn: conn}, err
	}
	if addr := service.Addr(); !addr.Is4() || !addr.IsLoopback() {
		return nil, fmt.Errorf("?alias: the service is at %v, and only one on 127.0.0.0/8 can be reached from a client's loopback address", addr)
	}
	source, err := aliases.Take(c)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP(netip.AddrPortFrom(source, 0))
	if err != nil {
		aliases.Release(c)
		return nil, fmt.Errorf("?alias: %w; do addresses like it lead to this host, as on Linux and Windows?", err)
	}
	return &Far{Conn: conn, aliases: aliases, client: c}, nil
}

// Close closes the socket and gives its alias back. Call it once.
func (f *Far) Close() {
	closeConn(f.Conn)
	if f.aliases != nil {
		f.aliases.Release(f.client)
	}
}
