//go:build unix

package dgram

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// errMessageSize is the kernel's word for a datagram larger than the path.
const errMessageSize = unix.EMSGSIZE

// isICMP says whether err was born of an ICMP message about some earlier
// datagram.
func isICMP(err error) bool { return isRefused(err) || isUnreachable(err) }

func isRefused(err error) bool { return errors.Is(err, unix.ECONNREFUSED) }

func isUnreachable(err error) bool {
	return errors.Is(err, unix.EHOSTUNREACH) || errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTDOWN)
}

func isDenied(err error) bool { return errors.Is(err, unix.EPERM) }

func isFull(err error) bool {
	return errors.Is(err, unix.ENOBUFS) || errors.Is(err, os.ErrDeadlineExceeded)
}

// poll asks a socket whether it is readable.
type poll struct{ fds [1]unix.PollFd }

func (*poll) reset() {}

// readable is the netpoller's question. Errors count as readable: the read
// that follows brings them out.
func (p *poll) readable(fd uintptr) bool {
	p.fds[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	n, err := unix.Poll(p.fds[:], 0)
	return n > 0 || err != nil && !errors.Is(err, unix.EINTR)
}
