//go:build !linux

package faketcp

import "context"

// SelfTest shows on this host that fake TCP works. Here it does not.
func SelfTest(context.Context) error { return available() }
