package tun

import (
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// Guests are the peers that dial a service which a link stands behind, one with
// ?alias. Each of their flows has a far socket of its own, whose address is the
// way here; its IP address is the authenticated peer's. An inside address
// belongs to the peer's process and not to the way: it outlives the flow, the
// session and every address of the peer's.
type Guests struct {
	table *table
	fresh func(inside netip.Addr, way netip.AddrPort)
}

// NewGuests gives addresses out of these spans, one a family; fresh is told of
// each new one.
func NewGuests(four, six Span, fresh func(inside netip.Addr, way netip.AddrPort)) *Guests {
	return &Guests{table: newTable(four, six), fresh: fresh}
}

// Source is Peers'. Who has not said hello is asked to.
func (g *Guests) Source(now time.Time, way path.Path) (netip.Addr, bool) {
	inside, ok := g.table.source(now, way)
	if !ok {
		say(way, message{kind: who})
	}
	return inside, ok
}

// Route is Peers'.
func (g *Guests) Route(now time.Time, inside netip.Addr) (path.Path, bool) {
	return g.table.route(now, inside)
}

// Tell is Peers'.
func (g *Guests) Tell(now time.Time, way path.Path, b []byte) bool {
	m, ok := parseMessage(b)
	if !ok || m.kind != hello {
		return false
	}
	inside, isNew := g.table.meet(now, identity{alias: way.Addr.Addr(), id: m.id, six: m.six}, way)
	if !inside.IsValid() {
		return true // of a family that we have no addresses of: nobody hears it
	}
	if isNew && g.fresh != nil {
		g.fresh(inside, way.Addr)
	}
	m.kind = heard
	say(way, m)
	return true
}

// Len is how many have an address.
func (g *Guests) Len() int { return g.table.size() }

// say sends a message. Whether it arrives shows by what comes back, so its
// error is the socket's to count.
func say(way path.Path, m message) {
	var buf [greetingSize]byte
	_ = way.Conn.Write(dgram.One(way.Addr, m.append(buf[:0])))
}
