//go:build linux

package main

import (
	"runtime"
	"sync/atomic"

	"rendezvous/internal/natlab/netns"
)

// attempted is a T whose failure ends the goroutine and nothing else.
type attempted struct {
	netns.T
	failed atomic.Bool
}

// Fatalf tells what happened and ends the attempt.
func (a *attempted) Fatalf(format string, args ...any) {
	a.failed.Store(true)
	a.Logf(format, args...)
	runtime.Goexit()
}

// Failed is what the lab asks before it throws logs away.
func (a *attempted) Failed() bool { return a.failed.Load() }
