package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestServeOnFullDisk needs a disk of its own, which root may make.
func TestServeOnFullDisk(t *testing.T) {
	dir := smallDisk(t)
	d := serving(t, dir, quiet(t)...)
	fill := fillDisk(t, dir)
	refused := ""
	for range 200 {
		_, errs, exit := outcome(t, "invite", "--state", dir)
		if exit == 1 {
			refused = errs
			break
		}
	}
	if !strings.Contains(refused, "disk full") || strings.Count(refused, "\n") != 1 {
		t.Errorf("on a full disk invite said %q", refused)
	}
	if st := d.status(); st.Host == "" {
		t.Errorf("status %+v", st)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	d.link()
	if exit := d.end(syscall.SIGTERM); exit != 0 {
		t.Errorf("ended with %d:\n%s", exit, d.errs.String())
	}
}

// A first start on a full disk leaves nothing that the next one would take for a
// damaged registry.
func TestFirstStartOnFullDisk(t *testing.T) {
	dir := smallDisk(t)
	fill := fillDisk(t, dir)
	_, errs, exit := outcome(t, append([]string{"serve", "--state", dir}, quiet(t)...)...)
	if exit != 1 || !strings.Contains(errs, "free some space there") || strings.Count(errs, "\n") != 1 {
		t.Errorf("on a full disk serve ended with %d and said %q", exit, errs)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	d := serving(t, dir, quiet(t)...)
	d.link()
	if exit := d.end(syscall.SIGTERM); exit != 0 {
		t.Errorf("ended with %d:\n%s", exit, d.errs.String())
	}
}

func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("mount a small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, 0) })
	return dir
}

// fillDisk leaves no room in a folder's disk, and names the file that took it.
func fillDisk(t *testing.T, dir string) string {
	t.Helper()
	fill := filepath.Join(dir, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 512))
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return fill
}
