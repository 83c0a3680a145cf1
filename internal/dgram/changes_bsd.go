//go:build darwin || freebsd

package dgram

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// openChanges opens a routing socket (route(4)), on which the kernel tells what
// changes.
func openChanges() (int, error) {
	fd, err := unix.Socket(unix.AF_ROUTE, unix.SOCK_RAW, unix.AF_UNSPEC)
	if err != nil {
		return -1, fmt.Errorf("listen to changes of the network: routing socket: %w", err)
	}
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return -1, errors.Join(fmt.Errorf("listen to changes of the network: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// tells leaves out the answers to other programs' questions about routes.
func tells(message []byte) bool {
	if len(message) < 4 {
		return false
	}
	switch message[3] {
	case unix.RTM_ADD, unix.RTM_DELETE, unix.RTM_CHANGE, unix.RTM_NEWADDR, unix.RTM_DELADDR, unix.RTM_IFINFO:
		return true
	}
	return false
}
