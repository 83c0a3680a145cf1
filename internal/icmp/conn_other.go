//go:build !linux

package icmp

import (
	"errors"
	"fmt"
	"runtime"
)

// Open is for Linux alone.
func Open() (Conn, error) {
	return nil, fmt.Errorf("ICMP of our own on %s: %w; it is there on Linux alone. Leave --icmp out, and give --peer on both sides", runtime.GOOS, errors.ErrUnsupported)
}
