//go:build linux

package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Process is a program that runs on a host until it ends, the test stops it,
// or the lab closes.
type Process struct {
	name string
	host *Host
	cmd  *exec.Cmd
	log  *logFile
	done chan struct{} // closed when the process has ended
	err  error         // how it ended; read it after done

	stopping sync.Once
}

// grace is how long a process has for ending by itself after SIGTERM.
const grace = 3 * time.Second

// Start runs a program on the host. Stdout and stderr go to one log in the
// lab's folder.
func (h *Host) Start(program string, args ...string) *Process {
	h.lab.t.Helper()
	return h.StartAs(Guise{}, program, args...)
}

// Guise is how a program runs that does not run as all others do.
type Guise struct {
	Unprivileged bool     // root without any capability
	Environment  []string // more of it, "HTTPS_PROXY=http://192.168.2.1:8888"
}

// command is the arguments of `ip` that run a program.
func (g Guise) command(ns, file string, args []string) []string {
	words := []string{"netns", "exec", ns}
	if g.Unprivileged {
		words = append(words, "setpriv", "--bounding-set=-all", "--inh-caps=-all")
	}
	return append(append(words, file), args...)
}

// StartAs is Start in a guise.
func (h *Host) StartAs(g Guise, program string, args ...string) *Process {
	h.lab.t.Helper()
	p, err := h.start(g, program, args)
	if err != nil {
		h.lab.t.Fatalf("start %s on %s: %v", program, h.Name, err)
	}
	return p
}

func (h *Host) start(g Guise, program string, args []string) (*Process, error) {
	l := h.lab
	file, err := l.program(program)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.counted++
	name := fmt.Sprintf("%02d-%s-%s.log", l.counted, h.Name, filepath.Base(program))
	l.mu.Unlock()
	log, err := newLogFile(filepath.Join(l.dir, name))
	if err != nil {
		return nil, err
	}
	p := &Process{name: filepath.Base(program), host: h, log: log, done: make(chan struct{})}
	p.cmd = exec.Command("ip", g.command(h.ns, file, args)...)
	p.cmd.Env = append(os.Environ(), g.Environment...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the terminal's ^C is ours alone
	p.cmd.WaitDelay = time.Second                           // its children may hold the log open
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go p.wait()
	l.mu.Lock()
	l.processes = append(l.processes, p)
	l.mu.Unlock()
	return p, nil
}

func (p *Process) wait() {
	p.err = p.cmd.Wait()
	p.log.end()
	close(p.done)
}

// PID is the program's own, for /proc.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Memory is the process's resident memory in bytes.
func (p *Process) Memory() int64 {
	p.host.lab.t.Helper()
	file := fmt.Sprintf("/proc/%d/statm", p.PID())
	content, err := os.ReadFile(file)
	var total, resident int64
	if err == nil {
		_, err = fmt.Sscan(string(content), &total, &resident)
	}
	if err != nil {
		p.host.lab.t.Fatalf("read the memory of %s: %v", p.name, err)
	}
	return resident * int64(os.Getpagesize())
}

// CPU is the processor time that the process has used so far.
func (p *Process) CPU() time.Duration {
	p.host.lab.t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		p.host.lab.t.Fatalf("read what %s has used: %v", p.name, err)
	}
	// Fields 14 and 15 of proc(5), in ticks of 10 ms; the second is a name in
	// parentheses that may hold anything.
	_, rest, _ := strings.Cut(string(content), ") ")
	var user, system int64
	if f := strings.Fields(rest); len(f) > 12 {
		_, err = fmt.Sscan(f[11]+" "+f[12], &user, &system)
	}
	if err != nil {
		p.host.lab.t.Fatalf("read what %s has used: %v: %s", p.name, err, content)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running says whether the process has not ended yet.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait waits for the end of the process and gives its exit code, -1 when a
// signal ended it. A process that does not end in time ends the test.
func (p *Process) Wait(limit time.Duration) int {
	p.host.lab.t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		p.host.lab.t.Fatalf("%s on %s still runs after %v:\n%s", p.name, p.host.Name, limit, p.log.tail(30))
	}
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal; to a process that has ended it does nothing.
func (p *Process) Signal(s os.Signal) {
	p.host.lab.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.host.lab.t.Fatalf("send %v to %s: %v", s, p.name, err)
	}
}

// Kill is kill -9, and waits until the process is no more.
func (p *Process) Kill() {
	p.host.lab.t.Helper()
	p.Signal(os.Kill)
	<-p.done
}

// Stop asks the process to end, kills it after a grace, and waits until it is
// no more.
func (p *Process) Stop() {
	p.stopping.Do(func() {
		if !p.Running() {
			return
		}
		p.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(grace):
			p.host.lab.t.Logf("%s on %s ignored SIGTERM for %v; killed", p.name, p.host.Name, grace)
			p.Kill()
		}
	})
	<-p.done
}

// Log is all that the process has written so far.
func (p *Process) Log() string { return p.log.text() }

// WaitLog waits until the log contains text, and gives the line where it
// does. A process that ends before ends the test.
func (p *Process) WaitLog(text string, limit time.Duration) string {
	p.host.lab.t.Helper()
	line, err := p.log.wait(text, limit)
	if err != nil {
		p.host.lab.t.Fatalf("%s on %s: %v:\n%s", p.name, p.host.Name, err, p.log.tail(30))
	}
	return line
}

// logFile keeps what a process writes, in memory and in a file.
type logFile struct {
	mu      sync.Mutex
	file    *os.File
	content strings.Builder
	changed chan struct{} // closed at each change, and replaced
	ended   bool
}

func newLogFile(name string) (*logFile, error) {
	file, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	return &logFile{file: file, changed: make(chan struct{})}, nil
}

// Write takes what the process wrote.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.content.Write(b)
	close(l.changed)
	l.changed = make(chan struct{})
	return l.file.Write(b)
}

// end says that nothing more will come.
func (l *logFile) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	close(l.changed)
	l.changed = make(chan struct{})
	// What was to be kept is in memory too, so an error loses nothing.
	_ = l.file.Close()
}

// Close closes the file of a process that never started.
func (l *logFile) Close() error { return l.file.Close() }

func (l *logFile) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.content.String()
}

func (l *logFile) tail(lines int) string {
	all := strings.Split(strings.TrimRight(l.text(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func (l *logFile) wait(text string, limit time.Duration) (string, error) {
	timeout := time.After(limit)
	for {
		l.mu.Lock()
		content, changed, ended := l.content.String(), l.changed, l.ended
		l.mu.Unlock()
		if before, after, found := strings.Cut(content, text); found {
			start := before[strings.LastIndexByte(before, '\n')+1:]
			rest, _, _ := strings.Cut(after, "\n")
			return start + text + rest, nil
		}
		if ended {
			return "", fmt.Errorf("it ended, and %q is not in its log", text)
		}
		select {
		case <-changed:
		case <-timeout:
			return "", fmt.Errorf("no %q in its log within %v", text, limit)
		}
	}
}
