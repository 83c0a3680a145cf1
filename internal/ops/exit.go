// Package ops is what both commands need beside their own work: the control
// socket in the state folder, exit codes, the log, metrics and health, and the
// service manager's notifications.
package ops

import (
	"errors"
	"fmt"
	"io"
)

// The exit codes of both commands; scripts rely on them.
const (
	ExitDone     = 0 // it was done
	ExitFailed   = 1 // it was tried, and did not work
	ExitUsage    = 2 // wrong flags, arguments or configuration
	ExitNoDaemon = 3 // no daemon answers in the state folder
)

// ErrNoDaemon is what errors.Is finds in the error of a Client whose state
// folder has no running daemon.
var ErrNoDaemon = errors.New("no daemon is running")

// UsageError says that the command was used wrongly: flags, arguments or
// configuration, so trying again without a change is of no use.
type UsageError struct{ Err error }

func (e *UsageError) Error() string { return e.Err.Error() }

// Unwrap gives the fault itself.
func (e *UsageError) Unwrap() error { return e.Err }

// Usage makes a UsageError, formatted as fmt.Errorf does.
func Usage(format string, args ...any) error {
	return &UsageError{Err: fmt.Errorf(format, args...)}
}

// Failed makes an error of exit code 1, formatted as fmt.Errorf does. Every
// error that is of no other kind has that code; the name says it at the place.
func Failed(format string, args ...any) error { return fmt.Errorf(format, args...) }

// ExitCode is the exit code that err stands for. Nil is 0, UsageError is 2,
// ErrNoDaemon is 3, whatever they are wrapped in, and all else is 1.
func ExitCode(err error) int {
	var usage *UsageError
	switch {
	case err == nil:
		return ExitDone
	case errors.As(err, &usage):
		return ExitUsage
	case errors.Is(err, ErrNoDaemon):
		return ExitNoDaemon
	}
	return ExitFailed
}

// Report writes err, when there is one, as one paragraph "command: error" to w
// (stderr) and returns its exit code.
func Report(w io.Writer, command string, err error) int {
	if err != nil {
		_, _ = fmt.Fprintf(w, "%s: %v\n", command, err) // stderr: there is nobody else to tell
	}
	return ExitCode(err)
}
