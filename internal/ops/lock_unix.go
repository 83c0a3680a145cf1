//go:build unix

package ops

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes f for this process until f is closed, or says that another
// has it. The kernel lets go when a process dies, so no lock is ever stale.
func lockFile(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errors.New("it holds " + f.Name())
	}
	return err
}
