package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
)

// writeFile replaces the file at name with data: either the old file is there
// or the new one, whole, whenever the machine stops. Only its owner can read it.
func writeFile(name string, data []byte) error {
	temp := name + ".new" // one writer at a time, so a fixed name; a stale one is overwritten
	if err := writeSynced(temp, data); err != nil {
		// What is left of it would keep a full disk full.
		return errors.Join(fileError(err), ignoreMissing(os.Remove(temp)))
	}
	if err := os.Rename(temp, name); err != nil {
		return errors.Join(fileError(err), ignoreMissing(os.Remove(temp)))
	}
	return fileError(syncDir(filepath.Dir(name)))
}

func writeSynced(name string, data []byte) (err error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	return f.Sync()
}

// syncDir makes the rename itself last.
func syncDir(dir string) (err error) {
	if runtime.GOOS == "windows" {
		return nil // it has no such call, and journals its renames
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// fileError adds to an error of a file in the state folder what to do.
func fileError(err error) error {
	var do string
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrPermission):
		do = "run this as the folder's owner, or name another folder with --state"
	case errors.Is(err, syscall.ENOSPC):
		do = "free some space there; what was in the file before is still there"
	case errors.Is(err, syscall.EROFS):
		do = "make it writable, or name another folder with --state"
	default:
		return fmt.Errorf("state folder: %w", err)
	}
	return fmt.Errorf("state folder: %w; %s", err, do)
}
