package faketcp

import (
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
)

// A packet is read in two pieces: its headers, as long as those of a segment
// without options are on Ethernet, and the rest into a slot of the arena. So
// the payload begins where the slot does, and 64 KiB are room for the longest.
const (
	headRoom = vnetSize + ethernetSize + maxReceived
	head4    = vnetSize + ethernetSize + ip4Size + tcpSize
	head6    = vnetSize + ethernetSize + ip6Size + tcpSize
)

// letter is struct mmsghdr of recvmmsg(2).
type letter struct {
	hdr unix.Msghdr
	n   uint32
}

// intake is what one visit to the kernel fills beside the slots.
type intake struct {
	msgs  [dgram.Slots]letter
	iovs  [dgram.Slots][2]unix.Iovec
	names [dgram.Slots]unix.RawSockaddrLinklayer
	heads [dgram.Slots][headRoom]byte
}

// bytes is how many the first n messages have.
func (in *intake) bytes(n int) (sum int) {
	for i := range n {
		sum += int(in.msgs[i].n)
	}
	return sum
}

var intakes = sync.Pool{New: func() any { return new(intake) }}

// receiver is the reader's state; a device has one reader.
type receiver struct {
	ready func(fd uintptr) bool // a closure made once, because one a visit would be an allocation
	arena *dgram.Arena
	in    *intake
	n     int // messages of the last visit
	large bool
	errno syscall.Errno
	queue dgram.Standing
	runs  [2]train // of which one is visited when the next is no part of it
}

// fewLarge is how many messages a visit asks for when the last ones were long:
// what is read should still be in the processor's cache when it is used.
const (
	fewLarge = 8
	longOne  = 8 << 10
)

// receive is device's.
func (l *link) receive(a *dgram.Arena, visit func(s *segment, b dgram.Burst)) error {
	for {
		a.Reset()
		l.rx.arena, l.rx.errno, l.rx.n = a, 0, 0
		err := l.packets.raw.Read(l.rx.ready)
		in := l.rx.in
		l.rx.arena, l.rx.in = nil, nil
		if err == nil && l.rx.errno != 0 {
			err = l.rx.errno
		}
		if err != nil {
			a.Release()
			return l.broken(err)
		}
		some := l.deliver(a, in, visit)
		intakes.Put(in)
		if some {
			return nil
		}
	}
}

// broken is the error of a visit that the netpoller ended, or the kernel did.
func (l *link) broken(err error) error {
	switch {
	case l.ended.Load():
		return net.ErrClosed
	case errors.Is(err, os.ErrDeadlineExceeded):
		return os.ErrDeadlineExceeded
	}
	return &dgram.Error{Op: "read", Local: l.at, Err: err}
}

// readable visits the kernel when the netpoller thinks that there is something
// to read; false waits on.
func (l *link) readable(fd uintptr) bool {
	in := intakes.Get().(*intake)
	for {
		want := l.expect(in)
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&in.msgs[0])), uintptr(want), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			l.rx.in, l.rx.n = in, int(n)
			l.rx.queue.Took(fd, l.rx.n, in.bytes(l.rx.n))
			return true
		case unix.EAGAIN:
			l.rx.queue.Emptied(fd)
			intakes.Put(in)
			l.rx.arena.Release()
			return false
		case unix.EINTR:
		case unix.EINVAL:
			// A packet whose offload has no name in a vnetHeader. It is gone
			// from the queue.
			l.malformed.Add(1)
		case unix.ENETDOWN, unix.ENOBUFS:
			// An interface went down: told once to each packet socket.
		default:
			intakes.Put(in)
			l.rx.errno = errno
			return true
		}
	}
}

// expect lays out the memory for the next visit and returns for how many
// messages.
func (l *link) expect(in *intake) int {
	n := dgram.Slots
	if l.rx.large {
		n = fewLarge
	}
	head := l.head()
	for i := range n {
		slot := l.rx.arena.Slot(i)
		iov := &in.iovs[i]
		iov[0].Base = &in.heads[i][0]
		iov[0].SetLen(head)
		iov[1].Base = &slot[0]
		iov[1].SetLen(len(slot))
		hdr := &in.msgs[i].hdr
		hdr.Name, hdr.Namelen = (*byte)(unsafe.Pointer(&in.names[i])), unix.SizeofSockaddrLinklayer
		hdr.Iov = &iov[0]
		hdr.SetIovlen(len(iov))
	}
	return n
}

func (l *link) head() int {
	if l.at.Addr().Is6() {
		return head6
	}
	return head4
}

// deliver visits what came, and says whether there was anything.
func (l *link) deliver(a *dgram.Arena, in *intake, visit func(s *segment, b dgram.Burst)) bool {
	some := false
	l.rx.large = false
	var last int // of rx.runs: the one that may grow
	for i := range l.rx.n {
		m := &in.msgs[i]
		l.rx.large = l.rx.large || m.n > longOne
		in.iovs[i][1].Base = nil // the arena's
		if m.hdr.Flags&unix.MSG_TRUNC != 0 {
			l.cutOff.Add(1)
			continue
		}
		slot := a.Slot(i)
		this := &l.rx.runs[1-last]
		if !l.packet(this, &in.heads[i], slot, int(m.n), in.names[i].Hatype) {
			continue
		}
		if some && l.rx.runs[last].join(this) {
			continue
		}
		if some {
			l.rx.runs[last].show(visit)
		}
		some, last = true, 1-last
	}
	if some {
		l.rx.runs[last].show(visit)
	}
	l.rx.runs = [2]train{} // the options lie in the intake, which is another's soon
	return some
}

// packet makes a run of what one message brought: n bytes, first in head, then
// in slot. It says whether it is one for us.
func (l *link) packet(r *train, head *[headRoom]byte, slot []byte, n int, kind uint16) bool {
	inHead := min(l.head(), n)
	rest := slot[:n-inHead]
	// All headers in one piece, should they be longer than usual.
	ip := vnetSize + linkHeader(kind)
	known := inHead + copy(head[inHead:], rest)
	s := &r.seg
	if known < ip {
		l.malformed.Add(1)
		return false
	}
	tcp, payload, end, err := parse(head[ip:known], n-ip, s)
	if err != nil {
		l.malformed.Add(1)
		return false
	}
	if !l.routes.isOwn(s.local.Addr()) {
		l.foreign.Add(1)
		return false
	}
	bytes := pull(head[:inHead], slot, ip+payload, ip+end)
	v := (*vnetHeader)(unsafe.Pointer(head))
	if v.flags&(vnetNeedsSum|vnetSumValid) == 0 && v.segment == 0 && !intact(s, head[ip+tcp:ip+payload], bytes) {
		l.badSum.Add(1)
		return false
	}
	size := len(bytes)
	if v.gso&^vnetECN != vnetPlain && v.segment > 0 {
		size = min(size, int(v.segment))
	}
	r.burst = dgram.Burst{Addr: s.remote, Buf: bytes, Size: size}
	return true
}

// pull returns the bytes from begin to end of a message whose first bytes are
// in head, and the others in slot, as one piece in slot.
func pull(head, slot []byte, begin, end int) []byte {
	switch {
	case begin >= end:
		return slot[:0:0]
	case begin >= len(head):
		return slot[begin-len(head) : end-len(head)]
	}
	ahead := min(len(head), end) - begin
	copy(slot[ahead:], slot[:max(end-len(head), 0)])
	copy(slot, head[begin:begin+ahead])
	return slot[:end-begin]
}

// linkHeader is the length of the link-layer header, by ARPHRD_*.
func linkHeader(kind uint16) int {
	if kind == unix.ARPHRD_ETHER || kind == unix.ARPHRD_LOOPBACK {
		return framedOffset
	}
	return bareOffset
}
