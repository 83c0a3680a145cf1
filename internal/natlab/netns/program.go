//go:build linux

package netns

import (
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
)

// Main runs body as a test that is a program of its own, a demo say, and
// returns the exit code. The lab is cleaned up whether body returns, fails,
// or SIGINT or SIGTERM ends it. Call it from main, as its last step.
func Main(name string, body func(t T)) int {
	p := &program{name: name}
	finished := make(chan any, 1)
	go func() {
		defer func() { finished <- recover() }()
		body(p)
	}()
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	select {
	case s := <-interrupted:
		p.failed.Store(true)
		p.Logf("%v: cleaning up", s)
		// The body may stand in the midst of a step. What it still makes, the
		// reaper removes.
	case panicked := <-finished:
		if panicked != nil {
			p.failed.Store(true)
			p.Logf("panic: %v", panicked)
		}
	}
	p.cleanUp()
	if p.failed.Load() {
		return 1
	}
	return 0
}

// Scope runs body with a T whose cleanups run when body ends, before the rest
// of the test goes on: for a program that builds one lab after the other.
func Scope(t T, body func(t T)) {
	s := &scope{T: t}
	defer s.cleanUp()
	body(s)
}

type scope struct {
	T
	cleanups
}

// Cleanup is the scope's own; all else is that of the T around it.
func (s *scope) Cleanup(f func()) { s.add(f) }

// Failed is what the lab asks before it throws logs away.
func (s *scope) Failed() bool { return hasFailed(s.T) }

// cleanups run last first.
type cleanups struct {
	mu  sync.Mutex
	all []func()
}

func (c *cleanups) add(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, f)
}

func (c *cleanups) cleanUp() {
	c.mu.Lock()
	all := c.all
	c.all = nil
	c.mu.Unlock()
	for _, f := range slices.Backward(all) {
		f()
	}
}

// program is the T of a program.
type program struct {
	name   string
	failed atomic.Bool
	cleanups
}

func (p *program) Helper() {}

func (p *program) Logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, p.name+": "+format+"\n", args...)
}

func (p *program) Fatalf(format string, args ...any) {
	p.failed.Store(true)
	p.Logf(format, args...)
	runtime.Goexit()
}

func (p *program) Cleanup(f func()) { p.add(f) }

func (p *program) Failed() bool { return p.failed.Load() }
