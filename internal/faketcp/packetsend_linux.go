package faketcp

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"rendezvous/internal/dgram"
)

// sender is one send on its way: what the kernel reads, in memory that is lent
// to one after the other.
type sender struct {
	l     *link
	hop   *hop
	seg   segment
	errno syscall.Errno
	hdr   unix.Msghdr
	iov   [2]unix.Iovec
	link  unix.RawSockaddrLinklayer
	ip4   unix.RawSockaddrInet4
	ip6   unix.RawSockaddrInet6
	head  [vnetSize + ethernetSize + maxHeader]byte
	now   func(fd uintptr)      // closures made once, because one a send
	again func(fd uintptr) bool // would be an allocation
}

var senders = sync.Pool{New: func() any {
	w := new(sender)
	w.now = func(fd uintptr) { w.errno = w.l.sendmsg(fd, &w.hdr) }
	w.again = func(fd uintptr) bool {
		w.now(fd)
		return w.errno != unix.EAGAIN
	}
	return w
}}

// sendmsg is the system call, which tests replace to see the errors that only
// some devices give.
func sendmsg(fd uintptr, msg *unix.Msghdr) syscall.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(msg)), unix.MSG_DONTWAIT)
	return errno
}

// retries bounds how often a send rests where the interface's queue is full.
const retries = 3

// send is device's.
func (l *link) send(s *segment, b dgram.Burst) error {
	w := senders.Get().(*sender)
	w.l, w.seg = l, *s
	err := w.burst(b)
	w.l, w.hop, w.seg = nil, nil, segment{}
	w.iov[1].Base = nil // the caller's bytes, which the pool must not keep alive
	senders.Put(w)
	if err == nil || errors.Is(err, net.ErrClosed) {
		return err
	}
	return &dgram.Error{Op: "write", Local: l.at, Addr: s.remote, Bytes: len(b.Buf), Err: err}
}

// burst sends b, and once more by another way when the first one is gone.
func (w *sender) burst(b dgram.Burst) error {
	if w.seg.remote.Addr().Is6() != w.l.at.Addr().Is6() {
		return errFamily
	}
	to := w.seg.remote.Addr()
	asked, sent := w.seg, 0
	for again := false; ; again = true {
		hop, err := w.l.routes.to(to)
		if err != nil {
			return w.l.closedAs(err)
		}
		w.hop = hop
		source := asked.local.Addr()
		if !source.IsValid() || source.IsUnspecified() {
			source = hop.source
		}
		w.seg.local = netip.AddrPortFrom(source, w.l.at.Port()) // a flow that begins knows neither
		n, err := w.pieces(b, sent)
		if err == nil || again || !gone(err) {
			return w.l.closedAs(err)
		}
		sent = n
		w.l.retried.Add(1)
		w.l.routes.forget(to)
	}
}

// errFamily: a device speaks IPv4 or IPv6, never both.
var errFamily = errors.New("the address is of the other family than the device")

// gone says whether an error means that an interface or a route is not there
// any more.
func gone(err error) bool {
	switch {
	case errors.Is(err, unix.ENETDOWN), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV):
		return true
	}
	return false
}

// pieces sends b from its byte sent on, in as few visits to the kernel as its
// limits allow, and returns how far it came.
func (w *sender) pieces(b dgram.Burst, sent int) (int, error) {
	header := w.seg.headerSize()
	size := min(b.Size, len(b.Buf))
	if header+size > w.hop.mtu {
		return sent, unix.EMSGSIZE
	}
	if len(b.Buf) == 0 {
		return 0, w.bare()
	}
	first, flags := w.seg.seq, w.seg.flags
	for sent < len(b.Buf) {
		most := size
		routed := !w.hop.framed || w.hop.doubted.CompareAndSwap(true, false)
		if !routed && !w.l.whole.Load() {
			most = (maxPacket - header) / size * size
		}
		part := b.Buf[sent:min(sent+most, len(b.Buf))]
		w.seg.seq = first + uint32(sent)
		w.seg.flags = flags
		if sent+len(part) < len(b.Buf) {
			w.seg.flags = flags &^ (flagPSH | flagFIN)
		}
		err := w.piece(part, size, routed)
		if errors.Is(err, errWhole) {
			w.l.whole.Store(true)
			continue
		}
		if err != nil {
			w.seg.seq, w.seg.flags = first, flags
			return sent, err
		}
		sent += len(part)
	}
	return sent, nil
}

// errWhole: the way takes no super-segments.
var errWhole = errors.New("the interface does not take super-segments")

// piece sends one segment or one super-segment.
func (w *sender) piece(payload []byte, size int, routed bool) error {
	if routed {
		w.l.oneByOne.Add(1)
		return w.routed(payload)
	}
	if w.l.whole.Load() {
		w.l.oneByOne.Add(1)
	}
	err := w.framed(payload, size)
	if len(payload) > size && (errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)) {
		// A device that computes no checksums may say so; one by one goes.
		return errWhole
	}
	return err
}

// bare sends a segment without payload, by the kernel's way. A firewall of this
// host that forbids it (EPERM; raw IP passes its OUTPUT chain) does not see
// packet sockets.
func (w *sender) bare() error {
	err := w.routed(nil)
	if errors.Is(err, unix.EPERM) && w.hop.framed {
		err = w.framed(nil, 0)
	}
	return err
}

// framed sends by the packet socket; the checksum is left to the interface.
func (w *sender) framed(payload []byte, size int) error {
	count := 1
	if len(payload) > size {
		count = (len(payload) + size - 1) / size
	}
	id := w.l.ids.Add(uint32(count)) - uint32(count)
	frame := append(w.head[:vnetSize], w.hop.header[:]...)
	frame = appendHeader(frame, &w.seg, uint16(id), len(payload))
	ip := ip4Size
	if w.seg.remote.Addr().Is6() {
		ip = ip6Size
	}
	v := (*vnetHeader)(unsafe.Pointer(&w.head))
	*v = vnetHeader{
		flags:     vnetNeedsSum,
		size:      uint16(len(frame) - vnetSize),
		sumStart:  uint16(ethernetSize + ip),
		sumOffset: tcpChecksum,
	}
	if count > 1 {
		v.segment, v.gso = uint16(size), vnetTCP4
		if w.seg.remote.Addr().Is6() {
			v.gso = vnetTCP6
		}
	}
	w.link = unix.RawSockaddrLinklayer{
		Family:   unix.AF_PACKET,
		Protocol: swap(etherType(w.seg.remote.Addr().Is6())),
		Ifindex:  int32(w.hop.link),
		Halen:    6,
	}
	copy(w.link.Addr[:6], w.hop.header[:6])
	w.hdr.Name, w.hdr.Namelen = (*byte)(unsafe.Pointer(&w.link)), unix.SizeofSockaddrLinklayer
	return w.attempt(w.l.packets, frame, payload, count)
}

// routed sends one segment by the raw IP socket.
func (w *sender) routed(payload []byte) error {
	id := w.l.ids.Add(1) - 1
	packet := appendHeader(w.head[:0], &w.seg, uint16(id), len(payload))
	to := w.seg.remote.Addr()
	if to.Is6() {
		complete(packet[ip6Size:], payload)
		w.ip6 = unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.As16(), Scope_id: zoneOf(to)}
		w.hdr.Name, w.hdr.Namelen = (*byte)(unsafe.Pointer(&w.ip6)), unix.SizeofSockaddrInet6
	} else {
		complete(packet[ip4Size:], payload)
		w.ip4 = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: to.As4()}
		w.hdr.Name, w.hdr.Namelen = (*byte)(unsafe.Pointer(&w.ip4)), unix.SizeofSockaddrInet4
	}
	return w.attempt(w.l.kernel, packet, payload, 1)
}

// attempt makes the system call for a packet of count segments.
func (w *sender) attempt(s *socket, head, payload []byte, count int) error {
	w.iov[0].Base = &head[0]
	w.iov[0].SetLen(len(head))
	w.iov[1].Base = unsafe.SliceData(payload)
	w.iov[1].SetLen(len(payload))
	w.hdr.Iov = &w.iov[0]
	w.hdr.SetIovlen(len(w.iov))
	for try := 0; ; try++ {
		if err := s.raw.Control(w.now); err != nil {
			return err
		}
		switch {
		case w.errno == 0:
			return nil
		case w.errno == unix.EAGAIN:
			if err := dgram.WhenRoom(s.file, s.raw, w.again, &w.errno); !errors.Is(err, unix.EAGAIN) {
				return err
			}
			w.l.full.Add(uint64(count))
			return unix.EAGAIN
		case w.errno == unix.EINTR:
			continue
		case try == retries:
			if w.errno == unix.ENOBUFS {
				w.l.full.Add(uint64(count))
			}
			return w.errno
		case w.errno == unix.ENOBUFS:
			time.Sleep(dgram.Shortage)
		case w.errno == unix.EPERM && try == 0:
			// The first send of a flow is known to get it while connection
			// tracking sets itself up.
		default:
			return w.errno
		}
		w.l.retried.Add(1)
	}
}
