package dgram

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// bindToDevice is called for each new socket (net.ListenConfig.Control); nil
// where there is no device to bind to.
func bindToDevice(name string) func(network, address string, c syscall.RawConn) error {
	if name == "" {
		return nil
	}
	return func(_, _ string, c syscall.RawConn) error {
		var bound error
		err := c.Control(func(fd uintptr) { bound = unix.BindToDevice(int(fd), name) })
		if err == nil {
			err = bound
		}
		if err != nil {
			return fmt.Errorf("bind to the interface %q (SO_BINDTODEVICE): %w", name, err)
		}
		return nil
	}
}
