//go:build linux

package netns

import (
	"fmt"
	"os"
	"os/exec"
)

// Build compiles programs of this module ("rendezvous/cmd/agent") into a
// folder.
func Build(dir string, packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-o", dir + "/"}, packages...)...)
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
	dir, err := os.MkdirTemp("", "rdv-bin-")
	if err == nil {
		defer os.RemoveAll(dir)
		err = Build(dir, packages...)
	}
	if err == nil {
		err = os.Setenv("RDV_BIN", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return run()
}
