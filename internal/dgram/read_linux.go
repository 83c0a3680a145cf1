package dgram

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// headers are what recvmmsg fills beside the bytes.
type headers struct {
	msgs  [Slots]message
	iovs  [Slots][2]unix.Iovec
	names [Slots]sockaddr
	ctrls [Slots]control
}

// receiver is the reader's state; a socket has one reader.
type receiver struct {
	ready func(fd uintptr) bool // a closure made once, because one a read would be an allocation
	arena *Arena
	errno syscall.Errno
	// stride is how long the next messages are expected to be: as long as the
	// longest of the last visit; 0 when nothing is known.
	stride int
	room   int // messages that the next visit is laid out for; 0: leastRoom
	queue  Standing
}

// leastRoom is for how many messages a visit to a quiet socket is laid out, which
// costs time for each.
const leastRoom = 4

// adapt makes room for more where there was no room left after n messages, and
// for less where most of it was not used.
func (r *receiver) adapt(n int) {
	switch {
	case n >= r.room:
		r.room = min(4*r.room, Slots)
	case n < r.room/4:
		r.room = max(r.room/2, leastRoom)
	}
}

// Read is Conn's. The arena holds memory only while there is something to
// read.
func (s *socket) Read(a *Arena) ([]Burst, error) {
	a.Reset()
	s.rx.arena, s.rx.errno = a, 0
	err := s.raw.Read(s.rx.ready)
	s.rx.arena = nil
	if err == nil && s.rx.errno != 0 {
		err = s.rx.errno
	}
	if err != nil {
		a.Release()
		return nil, s.broken("read", netip.AddrPort{}, 0, err)
	}
	return a.Bursts(), nil
}

// readable visits the kernel when the netpoller thinks that there is something
// to read; false waits on.
func (s *socket) readable(fd uintptr) bool {
	b := s.rx.arena.borrow()
	for {
		want := s.expect(b)
		n, errno := s.kernel.receive(fd, &b.headers.msgs[0], want)
		switch {
		case errno == 0 && n > 0:
			s.rx.adapt(n)
			s.rx.queue.Took(fd, n, s.gather(b, n))
			return true
		case errno == unix.EAGAIN:
			s.rx.queue.Emptied(fd)
			s.rx.arena.Release()
			return false
		case errno == unix.EINTR:
		case transient(errno):
			s.icmp.Add(1)
		default:
			s.rx.errno = errno
			return true
		}
	}
}

// expect lays out the memory for the next visit and returns for how many
// messages.
//
// Messages of one size should come out as a long burst, so that the writer
// behind can send it as one. For that each gets two pieces of memory: stride
// bytes in the lane, where it ends up right behind the one before it, and the
// rest of a whole slot, for the one that turns out longer than expected.
// Whatever the guess, there is room for the longest message.
func (s *socket) expect(b *block) int {
	stride := s.rx.stride
	s.rx.room = max(s.rx.room, leastRoom)
	n := min(s.rx.room, laneSize/max(stride, 1))
	if stride == 0 {
		n = min(s.rx.room, laneSize/SlotSize)
	}
	h := &b.headers
	for i := range n {
		slot := b.slot(i)
		iov := h.iovs[i][:1]
		if stride > 0 {
			iov = h.iovs[i][:2]
			iov[0].Base = &b.rows.lane[i*stride]
			iov[0].SetLen(stride)
			slot = slot[stride:]
		}
		iov[len(iov)-1].Base = &slot[0]
		iov[len(iov)-1].SetLen(len(slot))
		hdr := &h.msgs[i].hdr
		hdr.Name, hdr.Namelen = (*byte)(unsafe.Pointer(&h.names[i])), sizeInet6
		hdr.Iov = &iov[0]
		hdr.SetIovlen(len(iov))
		hdr.Control = (*byte)(unsafe.Pointer(&h.ctrls[i]))
		hdr.SetControllen(int(unsafe.Sizeof(h.ctrls[i])))
	}
	return n
}

// gather makes bursts of n messages, and says how many bytes they are.
func (s *socket) gather(b *block, n int) (bytes int) {
	m := merger{arena: s.rx.arena}
	longest := 0
	h := &b.headers
	for i := range n {
		size := int(h.msgs[i].n)
		segment := h.ctrls[i].segment(int(h.msgs[i].hdr.Controllen))
		if segment <= 0 || segment > size {
			segment = size
		}
		long := s.rx.stride > 0 && size > s.rx.stride
		m.add(Burst{Addr: s.zones.addrOf(&h.names[i]), Buf: s.bytes(b, i, size), Size: segment}, long)
		longest = max(longest, size)
		bytes += size
	}
	s.rx.stride = longest
	return bytes
}

// bytes are the i-th message's, brought together when it was longer than
// expected.
func (s *socket) bytes(b *block, i, size int) []byte {
	stride := s.rx.stride
	if stride == 0 {
		return b.slot(i)[:size]
	}
	head := b.rows.lane[i*stride:]
	if size <= stride {
		return head[:size]
	}
	slot := b.slot(i)[:size]
	copy(slot, head[:stride])
	return slot
}
