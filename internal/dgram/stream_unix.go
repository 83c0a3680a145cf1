//go:build unix

package dgram

import (
	"errors"
	"io"
	"syscall"

	"golang.org/x/sys/unix"
)

// directly lets the intake ask the kernel itself, so that memory is borrowed
// only once there is something to read.
func (in *intake) directly(raw syscall.RawConn) {
	in.raw = raw
	in.try = func(fd uintptr) bool { // made once: one a read would be an allocation
		in.room(mostPiece)
		for {
			n, err := unix.Read(int(fd), in.buf[len(in.buf):cap(in.buf)])
			switch {
			case errors.Is(err, unix.EINTR):
				continue
			case errors.Is(err, unix.EAGAIN):
				in.room(0)
				return false
			case n == 0 && err == nil:
				err = io.EOF
			}
			in.n, in.err = max(n, 0), err
			return true
		}
	}
}
