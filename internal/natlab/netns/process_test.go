//go:build linux

package netns_test

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"rendezvous/internal/natlab/netns"
)

// failing is a T that notes how the test would have ended.
type failing struct {
	*testing.T
	said []string
}

func (f *failing) Logf(format string, args ...any) {
	f.said = append(f.said, fmt.Sprintf(format, args...))
}

func (f *failing) Fatalf(format string, args ...any) {
	f.Logf(format, args...)
	runtime.Goexit()
}

// fails gives what body ended with, "" when it came to its end.
func fails(t *testing.T, body func(t netns.T)) string {
	t.Helper()
	f := &failing{T: t}
	done := make(chan bool, 1)
	go func() {
		defer close(done)
		body(f)
		done <- true
	}()
	if <-done {
		return ""
	}
	return strings.Join(f.said, "\n")
}

func TestFailuresSayWhatIsWrong(t *testing.T) {
	for name, test := range map[string]struct {
		body func(t netns.T)
		want []string
	}{
		"a program that isn't there": {
			func(t netns.T) { netns.New(t).Host("a").Start("no-such-program") },
			[]string{"no-such-program", "on a", "make build"},
		},
		"a command that fails": {
			func(t netns.T) { netns.New(t).Host("a").Run("sh", "-c", "echo why >&2; exit 3") },
			[]string{"exit status 3", "why"},
		},
		"a log without the line": {
			func(t netns.T) {
				netns.New(t).Host("a").Start("sh", "-c", "echo something else").WaitLog("ready", 5*time.Second)
			},
			[]string{"it ended", `"ready"`, "something else"},
		},
		"a process that does not end": {
			func(t netns.T) { netns.New(t).Host("a").Start("sleep", "1000").Wait(10 * time.Millisecond) },
			[]string{"sleep on a still runs"},
		},
		"a port that nobody opens": {
			func(t netns.T) { netns.New(t).Host("a").WaitPort("udp", 443, 10*time.Millisecond) },
			[]string{"udp port 443 of a", "not within"},
		},
		"a counter that isn't there": {
			func(t netns.T) { netns.New(t).Host("a").Counter("none") },
			[]string{`"none"`},
		},
		"a condition that never holds": {
			func(t netns.T) {
				netns.Eventually(t, time.Millisecond, "peace", func() error { return errors.New("there is war") })
			},
			[]string{"wait for peace", "there is war"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := fails(t, test.body)
			for _, want := range test.want {
				if !strings.Contains(got, want) {
					t.Errorf("no %q in %q", want, got)
				}
			}
		})
	}
}

func TestProcessesEnd(t *testing.T) {
	h := netns.New(t).Host("a")
	if code := h.Start("sh", "-c", "exit 7").Wait(time.Second); code != 7 {
		t.Errorf("the exit code is %d, want 7", code)
	}
	polite := h.Start("sh", "-c", "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.01; done")
	polite.WaitLog("ready", time.Second)
	if polite.Memory() == 0 {
		t.Error("a process that runs uses no memory")
	}
	polite.Stop()
	if !strings.Contains(polite.Log(), "bye") || polite.Running() {
		t.Errorf("SIGTERM did not end it: %q", polite.Log())
	}
	killed := h.Start("sleep", "1000")
	killed.Kill()
	killed.Signal(syscall.SIGTERM) // does nothing
	if code := killed.Wait(time.Second); code != -1 {
		t.Errorf("the exit code of a killed process is %d", code)
	}
}

func TestScopeCleansUpBeforeTheTestGoesOn(t *testing.T) {
	var order []string
	netns.Scope(t, func(t netns.T) {
		t.Cleanup(func() { order = append(order, "first") })
		t.Cleanup(func() { order = append(order, "second") })
	})
	order = append(order, "after")
	if !slices.Equal(order, []string{"second", "first", "after"}) {
		t.Errorf("cleaned up in the order %v", order)
	}
}
