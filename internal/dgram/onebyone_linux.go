package dgram

import (
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// train is a burst that is sent one by one, with one sendmmsg for many.
type train struct {
	s     *socket
	n     int // messages laid out, then sent
	errno syscall.Errno
	msgs  [MaxSegments]message
	iovs  [MaxSegments]unix.Iovec
	now   func(fd uintptr)
}

var trains = sync.Pool{New: func() any {
	t := new(train)
	t.now = func(fd uintptr) { t.n, t.errno = t.s.kernel.sendMany(fd, &t.msgs[0], t.n) }
	return t
}}

// oneByOne writes a burst without segmentation offload.
func (w *sender) oneByOne(b Burst) error {
	w.s.oneByOne.Add(uint64(b.Len()))
	t := trains.Get().(*train)
	t.s = w.s
	err := w.ride(t, b)
	t.s = nil
	clear(t.iovs[:]) // the caller's bytes, which the pool must not keep alive
	trains.Put(t)
	return err
}

func (w *sender) ride(t *train, b Burst) error {
	n := w.control(0)
	for len(b.Buf) > 0 {
		t.load(w, b, n)
		if err := w.s.raw.Control(t.now); err != nil {
			return err
		}
		if t.errno != 0 {
			// The first one is in trouble: sent alone, it is tried again
			// or waits.
			t.n = 1
			if err := w.attempt(b.Buf[:min(b.Size, len(b.Buf))], 0); err != nil {
				return w.lost(err, b.Len())
			}
		}
		b.Buf = b.Buf[min(t.n*b.Size, len(b.Buf)):]
	}
	return nil
}

// load lays out as many datagrams of b as one visit takes.
func (t *train) load(w *sender, b Burst, controls int) {
	t.n = 0
	for d := range b.All() {
		iov, hdr := &t.iovs[t.n], &t.msgs[t.n].hdr
		iov.Base = unsafe.SliceData(d)
		iov.SetLen(len(d))
		hdr.Name, hdr.Namelen = (*byte)(unsafe.Pointer(&w.name)), w.hdr.Namelen
		hdr.Iov = iov
		hdr.SetIovlen(1)
		hdr.Control = (*byte)(unsafe.Pointer(&w.ctrl))
		hdr.SetControllen(controls)
		if t.n++; t.n == len(t.msgs) {
			return
		}
	}
}
