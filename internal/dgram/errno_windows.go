package dgram

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// errMessageSize is the system's word for a datagram larger than the path.
const errMessageSize = windows.WSAEMSGSIZE

// isICMP says whether err was born of an ICMP message about some earlier
// datagram.
func isICMP(err error) bool { return isRefused(err) || isUnreachable(err) }

func isRefused(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAECONNREFUSED) || errors.Is(err, windows.WSAENETRESET)
}

func isUnreachable(err error) bool {
	return errors.Is(err, windows.WSAEHOSTUNREACH) || errors.Is(err, windows.WSAENETUNREACH)
}

func isDenied(err error) bool { return errors.Is(err, windows.WSAEACCES) }

func isFull(err error) bool {
	return errors.Is(err, windows.WSAENOBUFS) || errors.Is(err, os.ErrDeadlineExceeded)
}

// poll asks a socket whether it is readable. On Windows a RawConn's Read asks
// first and then waits with an empty read of its own, so no, then yes, is the
// whole answer.
type poll struct{ asked bool }

func (p *poll) reset() { p.asked = false }

func (p *poll) readable(uintptr) bool {
	asked := p.asked
	p.asked = true
	return asked
}
