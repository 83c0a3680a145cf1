package ops

import (
	"fmt"
	"os"
	"path/filepath"
)

// DefaultState is the state folder of the command when no flag names one:
// /var/lib/NAME for root, else NAME under $XDG_STATE_HOME or ~/.local/state.
func DefaultState(name string) (string, error) {
	if os.Geteuid() == 0 {
		return filepath.Join("/var/lib", name), nil
	}
	return stateUnder(name, os.Getenv("XDG_STATE_HOME"), os.UserHomeDir)
}

// stateUnder follows the XDG base directory specification, which has relative
// paths in the variable ignored.
func stateUnder(name, xdg string, home func() (string, error)) (string, error) {
	if filepath.IsAbs(xdg) {
		return filepath.Join(xdg, name), nil
	}
	dir, err := home()
	if err != nil {
		return "", Usage("there is no home folder for the state (%w); name a folder with --state", err)
	}
	return filepath.Join(dir, ".local", "state", name), nil
}

// MakeState creates the state folder, for its owner alone, where it is
// missing, and checks that it can be read and written.
func MakeState(dir string) error {
	if err := checkSocketPath(filepath.Join(dir, SocketName)); err != nil {
		return err // before there is a folder of no use
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create the state folder %s: %w; may this user write there? name another with --state", dir, err)
	}
	if _, err := os.ReadDir(dir); err != nil {
		return fmt.Errorf("read the state folder %s: %w; run as its owner, or name another with --state", dir, err)
	}
	f, err := os.CreateTemp(dir, ".write-*")
	if err != nil {
		return fmt.Errorf("write in the state folder %s: %w; run as its owner, or name another with --state", dir, err)
	}
	name := f.Name()
	if err := f.Close(); err != nil {
		return fmt.Errorf("write in the state folder %s: %w", dir, err)
	}
	return os.Remove(name)
}
