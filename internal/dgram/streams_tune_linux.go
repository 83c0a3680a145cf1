package dgram

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unanswered is how long the kernel repeats what the peer doesn't acknowledge:
// after this the path is dead, and who writes must not hang on it.
const unanswered = 30 * time.Second

// prepareStream makes a connection fit for datagrams: nothing is held back to
// be joined with more, little waits in the kernel where it can't be dropped any
// more, and a dead path is noticed. A kernel that doesn't know an option does
// without.
func prepareStream(c *net.TCPConn) {
	_ = c.SetNoDelay(true)
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unanswered.Milliseconds()))
	})
	backlog(raw, firstPiece)
}

// backlog bounds what the kernel holds unsent. The send buffer itself is left
// to grow with the path, since it also holds what is under way: a fixed
// SO_SNDBUF would bound the speed instead.
func backlog(raw syscall.RawConn, n int) {
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, n)
	})
}

// crossed says whether the peer's SYN met ours (SYN-RECEIVED): the connection
// is as good as made.
func crossed(c syscall.RawConn) bool {
	received := false
	_ = c.Control(func(fd uintptr) { // closed: not any more
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		received = err == nil && info.State == unix.BPF_TCP_SYN_RECV
	})
	return received
}
