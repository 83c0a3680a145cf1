//go:build !linux

package rendezvous

import "net"

// tuneTCP leaves a connection as Go makes it: without Nagle's delay (RFC 896),
// and with the kernel's keepalives.
func tuneTCP(net.Conn) {}
