//go:build unix

package dgram

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// sharePort lets a listener and many connections have one local port. BSD and
// macOS need both options on each of them.
func sharePort(c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = errors.Join(
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
			unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1))
	})
	return errors.Join(err, set)
}
