package dgram

import (
	"errors"
	"syscall"

	"golang.org/x/sys/windows"
)

// sharePort lets a listener and many connections have one local port; Windows
// has but one option for it.
func sharePort(c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_REUSEADDR, 1)
	})
	return errors.Join(err, set)
}
