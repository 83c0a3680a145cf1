//go:build !linux

package dgram

import (
	"errors"
	"syscall"
)

// bindToDevice is called for each new socket (net.ListenConfig.Control); nil
// where there is no device to bind to.
func bindToDevice(name string) func(network, address string, c syscall.RawConn) error {
	if name == "" {
		return nil
	}
	return func(_, _ string, _ syscall.RawConn) error {
		return errors.New("only Linux binds a socket to an interface")
	}
}
