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

// program is the T of a program.
type program struct {
	name   string
	failed atomic.Bool

	mu       sync.Mutex
	cleanups []func()
}

func (p *program) cleanUp() {
	p.mu.Lock()
	cleanups := p.cleanups
	p.mu.Unlock()
	for _, f := range slices.Backward(cleanups) {
		f()
	}
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

func (p *program) Cleanup(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cleanups = append(p.cleanups, f)
}

func (p *program) Failed() bool { return p.failed.Load() }
