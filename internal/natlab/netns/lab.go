//go:build linux

// Package netns is the lab of network namespaces: hosts with real programs in
// them, nftables NATs, and an internet between them with delay, loss and
// routers. Tests, the demo and the bench build their scenes with it. It needs
// root (a user namespace will do).
package netns

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"rendezvous/internal/natlab/hop"
)

// T is what the lab needs of a test; Main gives one to a program. A step that
// can't be done ends the test by Fatalf, so call the lab from the test's own
// goroutine.
type T interface {
	Helper()
	Logf(format string, args ...any)
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Lab is the namespaces of one test. Everything in it is gone when the test
// ends, however it ends.
type Lab struct {
	t        T
	id       string
	dir      string // logs and other files of this run
	bin      string // searched for programs before PATH
	claim    int    // says that this run lives
	reaper   *reaper
	internet *hop.Internet

	mu        sync.Mutex
	hosts     []*Host
	processes []*Process
	counted   int
}

// New makes an empty lab, or skips the test where none can run (see Require).
// It first removes what dead runs have left.
func New(t T) *Lab {
	t.Helper()
	require(t)
	if err := sweep(); err != nil {
		t.Logf("sweep up after dead runs: %v", err)
	}
	l := &Lab{t: t, id: randomID(), bin: os.Getenv("RDV_BIN")}
	if err := l.open(); err != nil {
		t.Fatalf("open a lab of network namespaces: %v", err)
	}
	t.Cleanup(func() {
		if err := l.close(); err != nil {
			t.Logf("close the lab: %v", err)
		}
	})
	return l
}

func (l *Lab) open() error {
	var err error
	if l.claim, err = claimID(l.id); err != nil {
		return err
	}
	if l.reaper, err = startReaper(l.id); err != nil {
		return err
	}
	l.dir, err = os.MkdirTemp("", "rdv-"+l.id+"-")
	return err
}

// prefix begins the name of each namespace of this lab.
func (l *Lab) prefix() string { return namePrefix + l.id + "-" }

// ID is unique to this lab: six characters, good in names of files and
// interfaces.
func (l *Lab) ID() string { return l.id }

// Dir is a folder for this run's files. It also holds the logs of all
// processes, and stays when the test has failed.
func (l *Lab) Dir() string { return l.dir }

// SetPrograms names the folder where hosts look for programs before PATH; it
// is $RDV_BIN at first.
func (l *Lab) SetPrograms(dir string) { l.bin = dir }

// Hosts are all hosts so far.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]*Host(nil), l.hosts...)
}

// program finds a program's file.
func (l *Lab) program(name string) (string, error) {
	if l.bin != "" && !strings.Contains(name, "/") {
		if file := filepath.Join(l.bin, name); isFile(file) {
			return filepath.Abs(file)
		}
	}
	file, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("find the program %s in %q and PATH (run make build, make deps): %w", name, l.bin, err)
	}
	return filepath.Abs(file)
}

func isFile(name string) bool {
	info, err := os.Stat(name)
	return err == nil && !info.IsDir()
}

// close ends all processes, newest first, and removes the namespaces.
func (l *Lab) close() error {
	failed := hasFailed(l.t)
	if failed {
		l.showLogs()
	}
	for i := len(l.processes) - 1; i >= 0; i-- {
		l.processes[i].Stop()
	}
	var errs []error
	if l.internet != nil {
		errs = append(errs, l.internet.Close())
	}
	for _, h := range l.hosts {
		errs = append(errs, removeNamespace(h.ns))
	}
	errs = append(errs, removeSockets(l.id), l.reaper.stop(), closeClaim(l.claim))
	if failed {
		l.t.Logf("logs are kept in %s", l.dir)
	} else {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

func (l *Lab) showLogs() {
	for _, p := range l.processes {
		l.t.Logf("--- %s on %s, end of its log\n%s", p.name, p.host.Name, p.log.tail(40))
	}
}

func hasFailed(t T) bool {
	f, ok := t.(interface{ Failed() bool })
	return ok && f.Failed()
}

func randomID() string {
	b := make([]byte, 3)
	rand.Read(b)
	return hex.EncodeToString(b)
}
