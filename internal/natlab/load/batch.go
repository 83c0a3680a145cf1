//go:build linux

package main

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batch is the memory of one recvmmsg, each slot of which UDP_GRO may fill
// with many datagrams.
type batch struct {
	heads   [slots]mmsghdr
	vectors [slots]unix.Iovec
	names   [slots]unix.RawSockaddrInet6
	control [slots][64]byte
	bytes   [slots][1 << 16]byte
}

const slots = 32

// mmsghdr is the kernel's struct mmsghdr.
type mmsghdr struct {
	unix.Msghdr
	size uint32
	_    [4]byte
}

// enableGRO lets the kernel hand over several datagrams at once; without it a
// slot has one.
func (s *socket) enableGRO() error {
	return os.NewSyscallError("setsockopt UDP_GRO", unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_GRO, 1))
}

// read waits for datagrams and fills as many slots as there are.
func (b *batch) read(s *socket) (int, error) {
	for i := range b.heads {
		b.vectors[i].Base = &b.bytes[i][0]
		b.vectors[i].SetLen(len(b.bytes[i]))
		h := &b.heads[i].Msghdr
		h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.names[i])), unix.SizeofSockaddrInet6
		h.Iov, h.Control = &b.vectors[i], &b.control[i][0]
		h.SetIovlen(1)
		h.SetControllen(len(b.control[i]))
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&b.heads[0])), slots, unix.MSG_WAITFORONE, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR, unix.ECONNREFUSED, unix.EAGAIN:
		default:
			return 0, os.NewSyscallError("recvmmsg", errno)
		}
	}
}

// slot yields the datagrams of one slot.
func (b *batch) slot(i int) iter.Seq[[]byte] {
	data := b.bytes[i][:b.heads[i].size]
	size := b.segmentSize(i)
	return func(yield func([]byte) bool) {
		for size > 0 && len(data) > size {
			if !yield(data[:size]) {
				return
			}
			data = data[size:]
		}
		yield(data)
	}
}

// segmentSize reads UDP_GRO's control message, 0 where there is none.
func (b *batch) segmentSize(i int) int {
	control := b.control[i][:b.heads[i].Controllen]
	if len(control) < unix.CmsgLen(2) {
		return 0
	}
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.SOL_UDP || h.Type != unix.UDP_GRO {
		return 0
	}
	return int(binary.NativeEndian.Uint16(control[unix.CmsgLen(0):]))
}

// source is where the datagrams of a slot came from.
func (b *batch) source(i int) netip.AddrPort {
	name := &b.names[i]
	port := name.Port<<8 | name.Port>>8 // the kernel has it in network order
	if name.Family == unix.AF_INET {
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), port)
}
