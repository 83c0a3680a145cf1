//go:build !linux && !windows && !darwin && !freebsd && !netbsd && !openbsd && !dragonfly

package portmap

import (
	"fmt"
	"runtime"
)

// SystemGateways is not known on this system.
func SystemGateways() ([]Gateway, error) {
	return nil, fmt.Errorf("find the default gateway on %s: this program does not know how", runtime.GOOS)
}
