package tun

import (
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// Peers says who is behind which inside address. Its methods are called from
// several goroutines.
type Peers interface {
	// Source is the inside address that stands for who sends by a way; its
	// family is that of the segments. Without one it is false.
	Source(now time.Time, way path.Path) (netip.Addr, bool)
	// Route is the way to who has an inside address.
	Route(now time.Time, inside netip.Addr) (path.Path, bool)
	// Tell is a datagram too short for a segment; it is false if that means
	// nothing.
	Tell(now time.Time, way path.Path, message []byte) bool
}

// plain is what both modes without authentication have in common.
type plain struct{}

// Tell is Peers'.
func (plain) Tell(time.Time, path.Path, []byte) bool { return false }

// Clients are whoever sends to our port: each address and port has an inside
// address of its own, until it is silent for Lifetime. Nobody is authenticated.
type Clients struct {
	plain
	table *table
}

// NewClients gives addresses out of these spans, one a family.
func NewClients(four, six Span) *Clients { return &Clients{table: newTable(four, six)} }

// Source is Peers'.
func (c *Clients) Source(now time.Time, way path.Path) (netip.Addr, bool) {
	if inside, ok := c.table.source(now, way); ok {
		return inside, true
	}
	inside, _ := c.table.meet(now, identity{way: way, six: way.Addr.Addr().Is6()}, way)
	return inside, inside.IsValid()
}

// Route is Peers'.
func (c *Clients) Route(now time.Time, inside netip.Addr) (path.Path, bool) {
	return c.table.route(now, inside)
}

// Len is how many have an address.
func (c *Clients) Len() int { return c.table.size() }

// Fixed are peers that are known by their real addresses and all use one port:
// there is no table. Nobody is authenticated.
type Fixed struct {
	plain
	port  uint16
	conns map[bool]dgram.Conn // by whether it is IPv6's
}

// NewFixed reaches peers at a port by the conn of their family.
func NewFixed(port uint16, conns ...dgram.Conn) *Fixed {
	f := &Fixed{port: port, conns: make(map[bool]dgram.Conn)}
	for _, c := range conns {
		f.conns[c.LocalAddr().Addr().Is6()] = c
	}
	return f
}

// Source is Peers'. What comes from another port could not be answered.
func (f *Fixed) Source(_ time.Time, way path.Path) (netip.Addr, bool) {
	addr := way.Addr.Addr()
	return addr.WithZone(""), way.Addr.Port() == f.port && isHost(addr)
}

// Route is Peers'.
func (f *Fixed) Route(_ time.Time, inside netip.Addr) (path.Path, bool) {
	conn := f.conns[inside.Is6()]
	if conn == nil || !isHost(inside) {
		return path.Path{}, false
	}
	return path.Path{Conn: conn, Addr: netip.AddrPortFrom(inside, f.port)}, true
}

// isHost leaves out what is no single host of a network.
func isHost(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}
