package rendezvous

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tuneTCP makes a connection notice within userTimeout that the other end is
// gone, and keeps what waits in the kernel short: what is newer must not wait
// behind it. Both are wishes: without them it only takes longer.
func tuneTCP(c net.Conn) {
	with, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := with.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentMost)
	})
}
