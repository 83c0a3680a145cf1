//go:build !linux

package dgram

import (
	"net"
	"syscall"
)

// prepareStream makes a connection fit for datagrams: nothing is held back to
// be joined with more.
func prepareStream(c *net.TCPConn) { _ = c.SetNoDelay(true) }

// backlog is only to be had on Linux.
func backlog(syscall.RawConn, int) {}

// crossed can't be asked.
func crossed(syscall.RawConn) bool { return false }
