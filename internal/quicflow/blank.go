package quicflow

import (
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
)

// blank is a socket that nothing is ever sent from or read of. QUIC asks what
// the system's sockets can do, and takes ours for one of them.
var blank = sync.OnceValues(func() (syscall.RawConn, error) {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("open a socket for QUIC to inspect: %w", err)
	}
	// quic-go would warn that this socket's buffers are small.
	if err := os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true"); err != nil {
		return nil, err
	}
	return c.SyscallConn()
})
