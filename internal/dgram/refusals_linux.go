package dgram

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// CountRefusals is RefusalCounter's: IP_RECVERR, which also has the socket's
// reads and writes end with the errors that they swallow. Turning it off empties
// the queue.
func (s *socket) CountRefusals(on bool) error {
	if s.local.Addr().Is6() {
		return errFamily
	}
	value := 0
	if on {
		value = 1
	}
	var set error
	err := s.raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_RECVERR, value) })
	return errors.Join(err, os.NewSyscallError("setsockopt IP_RECVERR", set))
}

// Refusals is RefusalCounter's.
func (s *socket) Refusals() (n int) {
	// The message that drew the ICMP error is left out: the control data tell.
	oob := make([]byte, 256)
	_ = s.raw.Control(func(fd uintptr) { // closed: there is none
		for {
			_, size, _, _, err := unix.Recvmsg(int(fd), nil, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			if err == nil && refuses(oob[:size]) {
				n++
			}
		}
	})
	return n
}

const (
	sizeofExtendedErr = 16 // struct sock_extended_err (linux/errqueue.h): errno (4), origin, type, code, pad, info (4), data (4)
	icmpUnreachable   = 3
	icmpTooLarge      = 4 // a code of it, which is about sizes
)

// refuses says whether control data tell of a datagram that somebody on the way
// would not pass on.
func refuses(oob []byte) bool {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return false
	}
	for _, m := range messages {
		if m.Header.Level != unix.SOL_IP || m.Header.Type != unix.IP_RECVERR || len(m.Data) < sizeofExtendedErr {
			continue
		}
		origin, kind, code := m.Data[4], m.Data[5], m.Data[6]
		return origin == unix.SO_EE_ORIGIN_ICMP && kind == icmpUnreachable && code != icmpTooLarge
	}
	return false
}
