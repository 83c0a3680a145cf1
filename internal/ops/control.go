package ops

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// SocketName is the control socket's name in the state folder.
const SocketName = "control.sock"

const lockName = "control.lock"

// maxSocketPath is what sun_path holds on Linux, less the closing zero (unix(7)).
const maxSocketPath = 107

// Bounds of the control server: it serves one machine's commands.
const (
	headerTimeout = 5 * time.Second
	stopTimeout   = 2 * time.Second
	maxHeader     = 16 << 10
)

// Control is the listening control socket of a daemon. While it is open, no
// other daemon can have the same state folder.
type Control struct {
	listener net.Listener
	lock     *os.File
	path     string
	once     sync.Once
}

func checkSocketPath(path string) error {
	if len(path) > maxSocketPath {
		return Usage("the control socket %s has a path of %d bytes and the system allows %d; name a shorter folder with --state",
			path, len(path), maxSocketPath)
	}
	return nil
}

// Listen takes the state folder for this daemon and opens its control socket
// with permissions 0600. A socket that a killed daemon left is replaced. The
// folder must exist (MakeState). When another daemon has it, the error says so.
func Listen(dir string) (*Control, error) {
	path := filepath.Join(dir, SocketName)
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock in the state folder %s: %w; is this the user that owns the folder?", dir, err)
	}
	if err := lockFile(lock); err != nil {
		return nil, errors.Join(fmt.Errorf("another daemon already runs with the state folder %s (%w); stop it, or name another folder with --state", dir, err), lock.Close())
	}
	// The lock is ours, so whatever socket lies here belongs to nobody.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errors.Join(fmt.Errorf("remove the old control socket %s: %w", path, err), lock.Close())
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the control socket %s: %w", path, err), lock.Close())
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("close the control socket %s to others: %w", path, err), listener.Close(), lock.Close())
	}
	return &Control{listener: listener, lock: lock, path: path}, nil
}

// Serve answers with handler until ctx ends, then lets running requests end
// within two seconds, removes the socket and gives the state folder back.
func (c *Control) Serve(ctx context.Context, handler http.Handler) error {
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return serving },
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(c.listener) }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		// Streams follow this context, so that a ping without end does not
		// hold the daemon back.
		cancel()
		stop, release := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
		if server.Shutdown(stop) != nil {
			err = server.Close()
		}
		release()
		if e := <-done; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return errors.Join(err, c.Close())
}

// Close gives the state folder back. Serve does it by itself; doing it again
// does nothing, as the folder may be another daemon's by then.
func (c *Control) Close() error {
	var err error
	c.once.Do(func() { err = c.close() })
	return err
}

func (c *Control) close() error {
	err := c.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	if e := os.Remove(c.path); e != nil && !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	// Only who holds the lock may remove the socket, so it goes last.
	return errors.Join(err, c.lock.Close())
}

// Serve opens the control socket in dir and answers there until ctx ends.
func Serve(ctx context.Context, dir string, handler http.Handler) error {
	c, err := Listen(dir)
	if err != nil {
		return err
	}
	return c.Serve(ctx, handler)
}
