package dgram

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
)

// intake is the reading half of a Stream. Its memory is borrowed: while
// nothing has come a stream of the kernel's holds none, and another just
// enough to read the first bytes.
type intake struct {
	buf  []byte // lent; what was read and not parsed is buf[done:]
	done int
	hint int // how much memory the next read is worth

	raw   syscall.RawConn // nil: conn.Read must do
	try   func(fd uintptr) bool
	n     int
	err   error
	fault error

	malformed atomic.Uint64
}

var errTimeout = os.ErrDeadlineExceeded

func isTimeout(err error) bool {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Timeout() && !errors.Is(err, syscall.ETIMEDOUT)
}

// parse lays the datagrams that came in whole end to end in the arena: one
// burst each run of one size.
func (in *intake) parse(a *Arena, far netip.AddrPort) error {
	if in.fault != nil {
		return in.fault
	}
	var lane []byte
	var run Burst
	for {
		rest := in.buf[in.done:]
		n, ok := frameLen(rest)
		if ok && (n == 0 || n > MaxBytes) {
			in.malformed.Add(1)
			in.fault = errFrame
			break
		}
		if !ok || len(rest) < frameHeader+n {
			break
		}
		if lane == nil {
			lane = a.borrow().rows.lane[:0]
		}
		if run.Buf != nil && !continues(run, n) {
			a.Add(run)
			run = Burst{}
		}
		if run.Buf == nil {
			run = Burst{Addr: far, Buf: lane[len(lane):], Size: n}
		}
		at := len(lane)
		lane = append(lane, rest[frameHeader:frameHeader+n]...)
		run.Buf = lane[at-len(run.Buf) : at+n]
		in.done += frameHeader + n
	}
	if run.Buf != nil {
		a.Add(run)
		return nil
	}
	return in.fault
}

// continues says whether a datagram of n bytes may stand behind run.
func continues(run Burst, n int) bool {
	return n <= run.Size && len(run.Buf)%run.Size == 0 &&
		len(run.Buf) < MaxSegments*run.Size && len(run.Buf)+n <= MaxBytes
}

// fill reads more. What parse left is less than one datagram.
func (in *intake) fill(conn net.Conn) error {
	if in.raw != nil {
		in.n, in.err = 0, nil
		if err := in.raw.Read(in.try); err != nil {
			return err
		}
		return in.took(in.n, in.err)
	}
	in.room(max(in.hint, pieceSizes[0]))
	n, err := conn.Read(in.buf[len(in.buf):cap(in.buf)])
	if n == cap(in.buf)-len(in.buf) {
		in.hint = min(4*cap(in.buf), mostPiece) // more is there
	} else {
		in.hint = 0
	}
	return in.took(n, err)
}

// took accounts for n bytes read behind what was there.
func (in *intake) took(n int, err error) error {
	if n > 0 {
		in.buf = in.buf[:len(in.buf)+n]
		return nil // an error that came with them comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	if len(in.buf) == in.done {
		in.room(0)
	}
	return err
}

// room makes memory with place for n bytes in all, for what is not parsed yet
// and for the datagram that this announces. With 0 it gives back what the wait
// for the rest doesn't need.
func (in *intake) room(n int) {
	rest := in.buf[in.done:]
	if len(rest) > 0 {
		n = max(n, len(rest)+1)
	}
	if size, ok := frameLen(rest); ok {
		n = max(n, frameHeader+size)
	}
	if in.done == 0 && n > 0 && cap(in.buf) == fitting(n) {
		return
	}
	var b []byte
	if n > 0 {
		b = append(lend(n), rest...)
	}
	giveBack(in.buf)
	in.buf, in.done = b, 0
}
