//go:build linux

package netns

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Build compiles programs of this module ("rendezvous/cmd/agent") into a
// folder.
func Build(dir string, packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-trimpath", "-o", dir + "/"}, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %v: %w: %s", packages, err, out)
	}
	return nil
}

// TestMain is what the TestMain of a package does whose tests need programs:
// it builds them once and runs the tests, whose hosts then find them. It
// returns the exit code.
func TestMain(run func() int, packages ...string) int {
	if err := usable(); err != nil {
		return run() // each test says it
	}
	remove, err := Provide(packages...)
	defer remove()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return run()
}

// Provide builds programs into a folder where hosts of the labs that follow
// find them. remove removes it, and is never nil.
func Provide(packages ...string) (remove func(), err error) {
	dir, err := os.MkdirTemp("", "rdv-bin-")
	if err != nil {
		return func() {}, err
	}
	remove = func() { os.RemoveAll(dir) }
	if err := Build(dir, packages...); err != nil {
		return remove, err
	}
	return remove, os.Setenv("RDV_BIN", dir)
}

// Kernel is the release of the running one.
func Kernel() string {
	b, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}
