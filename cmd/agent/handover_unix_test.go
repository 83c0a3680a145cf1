//go:build unix

package main

import (
	"os"
	"syscall"
	"testing"
	"time"

	"rendezvous/internal/ops"
)

// The service's user must be able to read what root joined with.
func TestJoinAsRootIntoFolderOfAnother(t *testing.T) {
	const uid = 61234 // of those that systemd gives to DynamicUser
	dir := t.TempDir()
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Skipf("chown: %v; only root can", err)
	}
	c := startCoordinator(t)
	runCommand(t, "join", "--state", dir, "--name", "home", c.link(t, time.Hour, 1).String()).want(t, ops.ExitDone)
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) < 2 {
		t.Fatal(entries, err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || owner.Uid != uid {
			t.Errorf("%s belongs to another", e.Name())
		}
	}
}
