//go:build unix

package stream

import (
	"errors"
	"net"
	"syscall"
)

// nowWriter writes to a socket of the kernel's without waiting for room, so
// that who reads a carrier may do it and hands over to nobody. One goroutine at
// a time uses it.
type nowWriter struct {
	raw syscall.RawConn
	b   []byte
	n   int
	err error
	try func(fd uintptr) bool
}

// newNowWriter is nil where c is no TCP socket, nor wraps one (NetConn, as
// tls.Conn has it).
func newNowWriter(c net.Conn) *nowWriter {
	if wrapper, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = wrapper.NetConn()
	}
	s, ok := c.(*net.TCPConn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	w := &nowWriter{raw: raw}
	w.try = func(fd uintptr) bool {
		w.n, w.err = syscall.Write(int(fd), w.b)
		return true
	}
	return w
}

// write writes what there is room for.
func (w *nowWriter) write(b []byte) (int, error) {
	w.b = b
	err := w.raw.Write(w.try)
	w.b = nil
	if err == nil {
		err = w.err
	}
	switch {
	case errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
		return 0, nil
	case err != nil:
		return 0, err
	}
	return w.n, nil
}
