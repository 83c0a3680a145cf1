package agent

import (
	"net/netip"
	"sync"

	"rendezvous/internal/dgram"
)

// controls are the control connections that share one socket with all else on
// it, told apart by where they lead: several of the coordinator's ports are
// tried at once.
type controls struct {
	mu     sync.RWMutex
	byAddr map[netip.AddrPort]*dgram.PacketConn
}

// open makes the PacketConn of a connection to one address, in place of an
// earlier one.
func (c *controls) open(conn dgram.Conn, to netip.AddrPort) *dgram.PacketConn {
	pc := dgram.NewPacketConn(conn)
	c.mu.Lock()
	old := c.byAddr[to]
	if c.byAddr == nil {
		c.byAddr = make(map[netip.AddrPort]*dgram.PacketConn)
	}
	c.byAddr[to] = pc
	c.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
	return pc
}

// shut ends what open made.
func (c *controls) shut(to netip.AddrPort, pc *dgram.PacketConn) {
	c.mu.Lock()
	if c.byAddr[to] == pc {
		delete(c.byAddr, to)
	}
	c.mu.Unlock()
	_ = pc.Close()
}

// deliver hands a datagram to the connection with its source, if there is one.
func (c *controls) deliver(b dgram.Burst) bool {
	c.mu.RLock()
	pc := c.byAddr[b.Addr]
	c.mu.RUnlock()
	if pc == nil {
		return false
	}
	pc.Deliver(b)
	return true
}
