package dgram

import (
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unpolled is the descriptor of a socket that the runtime's poller does not know,
// so that it wakes nobody there. It is closed once nobody uses it.
type unpolled struct {
	fd    int
	users atomic.Int64 // and closing, once it is to be closed
}

const closing = 1 << 62

var _ syscall.RawConn = (*unpolled)(nil)

// takenOut takes a socket out of the runtime's poller, and closes what held it
// there.
func takenOut(raw syscall.RawConn, held interface{ Close() error }) (*unpolled, error) {
	u := &unpolled{}
	var dup error
	err := raw.Control(func(fd uintptr) { u.fd, dup = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err == nil {
		err = os.NewSyscallError("fcntl F_DUPFD_CLOEXEC", dup)
	}
	if err != nil {
		return nil, err
	}
	return u, held.Close()
}

// enter is false where it is closed; else leave must follow.
func (u *unpolled) enter() bool {
	for {
		n := u.users.Load()
		if n >= closing {
			return false
		}
		if u.users.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (u *unpolled) leave() {
	if u.users.Add(-1) == closing {
		_ = unix.Close(u.fd) // nothing is lost with a UDP socket
	}
}

// Close lets nobody in any more; the last one to leave closes the descriptor.
func (u *unpolled) Close() error {
	if !u.enter() {
		return net.ErrClosed
	}
	for {
		n := u.users.Load()
		if n >= closing {
			u.leave()
			return net.ErrClosed
		}
		if u.users.CompareAndSwap(n, n+closing) {
			u.leave()
			return nil
		}
	}
}

// Control is that of syscall.RawConn.
func (u *unpolled) Control(f func(fd uintptr)) error {
	if !u.enter() {
		return net.ErrClosed
	}
	defer u.leave()
	f(uintptr(u.fd))
	return nil
}

// Write is that of syscall.RawConn, without a wait.
func (u *unpolled) Write(f func(fd uintptr) bool) error {
	done := false
	if err := u.Control(func(fd uintptr) { done = f(fd) }); err != nil || done {
		return err
	}
	return os.ErrDeadlineExceeded
}

// Read is that of syscall.RawConn; a Crowd reads otherwise.
func (u *unpolled) Read(func(fd uintptr) bool) error { return errAttended }

// SetReadDeadline does nothing: nobody waits in a read.
func (u *unpolled) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing: a write does not wait.
func (u *unpolled) SetWriteDeadline(time.Time) error { return nil }
