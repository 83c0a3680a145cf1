//go:build linux || darwin || freebsd

package dgram

import (
	"context"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Changes tells that addresses, routes or links of this host may have changed,
// without saying which. The channel is closed when ctx ends, or when the kernel
// tells no more. Where there is no such thing the error is
// errors.ErrUnsupported.
func Changes(ctx context.Context) (<-chan struct{}, error) {
	fd, err := openChanges()
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "changes")
	changed := make(chan struct{}, 1)
	stop := context.AfterFunc(ctx, func() { _ = file.Close() })
	go func() {
		defer close(changed)
		defer stop()
		defer func() { _ = file.Close() }()
		b := make([]byte, 4096) // what does not fit is cut off, and not needed
		for {
			n, err := file.Read(b)
			switch {
			case errors.Is(err, unix.ENOBUFS): // so many changes that some were not told
			case err != nil:
				return
			case !tells(b[:n]):
				continue
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	return changed, nil
}
