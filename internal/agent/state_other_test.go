//go:build !linux

package agent

import "testing"

func smallDisk(t *testing.T) string {
	t.Helper()
	t.Skip("there is no small tmpfs to mount here; TestFailedWriteChangesNothing stands in for it")
	return ""
}
