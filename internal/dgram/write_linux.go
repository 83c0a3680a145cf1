package dgram

import (
	"encoding/binary"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sender is one Write on its way: what the kernel reads, in memory that is
// lent to one writer after the other.
type sender struct {
	s     *socket
	six   bool
	ttl   int // 0: the socket's own
	past  int // routers that let it pass; 0: all
	errno syscall.Errno
	hdr   unix.Msghdr
	iov   unix.Iovec
	name  sockaddr
	ctrl  control
	now   func(fd uintptr)      // closures made once, because one a write
	again func(fd uintptr) bool // would be an allocation
}

var senders = sync.Pool{New: func() any {
	w := new(sender)
	w.now = func(fd uintptr) { w.errno = w.s.kernel.send(fd, &w.hdr) }
	w.again = func(fd uintptr) bool {
		w.now(fd)
		return w.errno != unix.EAGAIN
	}
	w.hdr.Iov = &w.iov
	w.hdr.SetIovlen(1)
	w.hdr.Name = (*byte)(unsafe.Pointer(&w.name))
	return w
}}

// Write is Conn's.
func (s *socket) Write(b Burst) error { return s.write(b, 0, 0) }

// WriteTTL is TTLWriter's: IP_TTL or IPV6_HOPLIMIT for these datagrams alone.
func (s *socket) WriteTTL(b Burst, ttl int) error { return s.write(b, ttl, 0) }

// WriteRouters is RoutersWriter's: IP_RETOPTS for these datagrams alone.
func (s *socket) WriteRouters(b Burst, routers int) error { return s.write(b, 0, routers) }

func (s *socket) write(b Burst, ttl, past int) error {
	w := senders.Get().(*sender)
	w.s, w.six, w.ttl, w.past = s, s.local.Addr().Is6(), ttl, past
	err := w.burst(b)
	w.s = nil
	w.iov.Base = nil // the caller's bytes, which the pool must not keep alive
	senders.Put(w)
	if err != nil {
		return s.broken("write", b.Addr, len(b.Buf), err)
	}
	return nil
}

// burst writes b in as few visits as the kernel's limits allow.
func (w *sender) burst(b Burst) error {
	w.hdr.Namelen = w.s.zones.fill(&w.name, b.Addr, w.six)
	if w.hdr.Namelen == 0 {
		return w.lost(errFamily, b.Len())
	}
	if b.Len() == 1 {
		return w.visit(b.Buf)
	}
	for len(b.Buf) > 0 {
		most := min(MaxSegments, MaxBytes/b.Size) * b.Size
		if most == 0 || !w.s.segment.Load() {
			return w.oneByOne(b)
		}
		part := b
		if len(b.Buf) > most {
			part.Buf = b.Buf[:most]
		}
		if err := w.cut(part); err != nil {
			return err
		}
		b.Buf = b.Buf[len(part.Buf):]
	}
	return nil
}

// cut writes at most MaxSegments datagrams, and lets the kernel cut them.
func (w *sender) cut(b Burst) error {
	if b.Len() == 1 {
		return w.visit(b.Buf) // what was left over: never UDP_SEGMENT for a single datagram
	}
	err := w.attempt(b.Buf, b.Size)
	switch {
	case errors.Is(err, unix.EIO):
		// No device on the way computes checksums (before Linux 6.11):
		// never again on this socket.
		w.s.segment.Store(false)
		return w.oneByOne(b)
	case errors.Is(err, unix.EINVAL):
		// Older kernels say so for a segment larger than the path's MTU,
		// which sent alone gives EMSGSIZE.
		return w.oneByOne(b)
	case err != nil:
		return w.lost(err, b.Len())
	}
	return nil
}

// visit writes one datagram.
func (w *sender) visit(datagram []byte) error {
	if err := w.attempt(datagram, 0); err != nil {
		return w.lost(err, 1)
	}
	return nil
}

// retries bound how often a send is tried again when its error wasn't this
// datagram's fault.
const retries = 3

// attempt sends bytes with one sendmsg; segment is the size of the datagrams
// in it when they are several.
func (w *sender) attempt(bytes []byte, segment int) error {
	w.iov.Base = unsafe.SliceData(bytes)
	w.iov.SetLen(len(bytes))
	w.control(segment)
	var before syscall.Errno
	for range retries {
		if err := w.s.raw.Control(w.now); err != nil {
			return err
		}
		switch {
		case w.errno == 0:
			if transient(before) {
				w.s.icmp.Add(1) // it told of an earlier datagram
			}
			return nil
		case w.errno == unix.EAGAIN:
			return w.wait()
		case w.errno == unix.ENOBUFS:
			time.Sleep(Shortage)
		case w.errno == unix.EINTR:
		case w.errno == before || !passing(w.errno):
			return w.final()
		}
		before = w.errno
	}
	return w.final()
}

// final is the error of a send that isn't tried again. A refusal can't be this
// datagram's: that one's answer is still to come.
func (w *sender) final() error {
	if w.errno == unix.ECONNREFUSED {
		w.s.icmp.Add(1)
		return nil
	}
	return w.errno
}

// passing says whether an error may be gone at the second try. EPERM: the
// first send of a socket is known to get it while connection tracking sets
// itself up.
func passing(errno syscall.Errno) bool {
	return errno == unix.EPERM || transient(errno) && errno != unix.EMSGSIZE
}

// Shortage is the rest after ENOBUFS, the end of which nothing announces.
const Shortage = time.Millisecond

func (w *sender) wait() error { return WhenRoom(w.s.sock, w.s.raw, w.again, &w.errno) }

// WhenRoom sends when a socket that was full has room again, and gives
// unix.EAGAIN where that takes longer than patience. again makes the system
// call, leaves its error in errno, and is false while the socket is still full.
// The socket's write deadline is never taken back: only this function heeds it,
// and sets it anew each time.
func WhenRoom(sock interface{ SetWriteDeadline(time.Time) error }, raw syscall.RawConn, again func(fd uintptr) bool, errno *syscall.Errno) error {
	if err := sock.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	err := raw.Write(again)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return unix.EAGAIN
	case err == nil && *errno != 0:
		return *errno
	}
	return err
}

// lost counts n datagrams that were not sent, and returns err.
func (w *sender) lost(err error, n int) error {
	c := &w.s.counters.failed
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
		c = &w.s.full
	case errors.Is(err, unix.EMSGSIZE):
		c = &w.s.tooLarge
	case errors.Is(err, unix.EPERM):
		c = &w.s.denied
	case errors.Is(err, unix.EHOSTUNREACH), errors.Is(err, unix.ENETUNREACH):
		c = &w.s.unreachable
	}
	c.Add(uint64(n))
	return err
}

// control lays out the control messages of one send, and returns their bytes.
func (w *sender) control(segment int) int {
	n := 0
	if segment > 0 {
		n = w.ctrl.put(n, unix.IPPROTO_UDP, unix.UDP_SEGMENT, segment, 2)
	}
	if w.ttl > 0 {
		level, kind := int32(unix.IPPROTO_IP), int32(unix.IP_TTL)
		if w.six {
			level, kind = unix.IPPROTO_IPV6, unix.IPV6_HOPLIMIT
		}
		n = w.ctrl.put(n, level, kind, w.ttl, 4)
	}
	if w.past > 0 {
		n = w.ctrl.put(n, unix.IPPROTO_IP, unix.IP_RETOPTS, fullTimestamps(w.past), 4)
	}
	w.hdr.Control = nil
	if n > 0 {
		w.hdr.Control = (*byte)(unsafe.Pointer(&w.ctrl))
	}
	w.hdr.SetControllen(n)
	return n
}

// fullTimestamps is a timestamp option without room (RFC 791 section 3.1) that so
// many routers count up without an overflow, as it stands in memory.
func fullTimestamps(routers int) int {
	const kind, length, full, most = 68, 4, 5, 15
	return int(int32(binary.NativeEndian.Uint32([]byte{kind, length, full, byte(most-routers) << 4})))
}
