package icmp

import "net/netip"

// Conn sends and receives ICMP messages over IPv4, without the IP header.
type Conn interface {
	Send(to netip.Addr, message []byte) error
	// Receive waits for a "time exceeded", or until Close; its error is then
	// net.ErrClosed. The message is valid until the next call.
	Receive() (from netip.Addr, message []byte, err error)
	Close() error
}
