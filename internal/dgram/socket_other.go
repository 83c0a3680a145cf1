//go:build !linux

package dgram

import (
	"errors"
	"fmt"
	"net"
)

// headers: nothing beside the bytes is read at once here.
type headers struct{}

// wrap makes a Conn of a bound socket.
func wrap(sock *net.UDPConn, opts Options) (Conn, error) {
	raw, err := sock.SyscallConn()
	if err != nil {
		return nil, err
	}
	// A smaller buffer than asked for only means more loss in a rush.
	_ = sock.SetReadBuffer(opts.ReadBuffer)
	_ = sock.SetWriteBuffer(opts.WriteBuffer)
	local := localOf(sock)
	var setErr error
	err = raw.Control(func(fd uintptr) { setErr = forbidFragments(fd, local.Addr().Is6()) })
	if err := errors.Join(err, setErr); err != nil {
		return nil, fmt.Errorf("forbid fragments (IP_DONTFRAG): %w", err)
	}
	return newPortable(sock, raw, local), nil
}
