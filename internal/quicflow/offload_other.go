//go:build !linux

package quicflow

import "net"

// offloaded is c: here QUIC writes one packet at a time, and the conn gathers
// them into bursts.
func offloaded(c *conn) net.PacketConn { return c }
