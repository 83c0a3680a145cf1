package ops

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes f for this process until f is closed, or says that another
// has it.
func lockFile(f *os.File) error {
	err := windows.LockFileEx(windows.Handle(f.Fd()),
		windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, new(windows.Overlapped))
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return errors.New("it holds " + f.Name())
	}
	return err
}
