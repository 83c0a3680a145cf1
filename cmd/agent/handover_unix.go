//go:build unix

package main

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
)

// handOver gives what root wrote in a state folder of another user to that
// user: the service's user exists only while the service runs (DynamicUser in
// systemd), so nobody could join as that user.
func handOver(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || owner.Uid == 0 {
		return nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var faults []error
	for _, e := range entries {
		faults = append(faults, os.Lchown(filepath.Join(dir, e.Name()), int(owner.Uid), int(owner.Gid)))
	}
	return errors.Join(faults...)
}
