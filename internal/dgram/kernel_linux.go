package dgram

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// message is struct mmsghdr of recvmmsg(2): a message and how long it was.
type message struct {
	hdr unix.Msghdr
	n   uint32
}

// linux is the kernel we run on. Its calls never wait (MSG_DONTWAIT): all that
// they take is processor time, for a burst often more than the 20 us after which
// Go's scheduler has another thread take over from a system call. So the
// scheduler is not told of them (RawSyscall): without that hand-over, and the one
// back, what a TCP service costs is less by a tenth.
type linux struct{}

func (linux) receive(fd uintptr, msgs *message, n int) (int, syscall.Errno) {
	got, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(msgs)), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(got), 0
}

func (linux) send(fd uintptr, msg *unix.Msghdr) syscall.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(msg)), unix.MSG_DONTWAIT)
	return errno
}

func (linux) sendMany(fd uintptr, msgs *message, n int) (int, syscall.Errno) {
	sent, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(msgs)), uintptr(n), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sent), 0
}

// memInfo is SO_MEMINFO (Linux 4.12): among others, how many datagrams found
// the socket's buffer full.
func memInfo(fd uintptr) [unix.SK_MEMINFO_VARS]uint32 {
	var info [unix.SK_MEMINFO_VARS]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return [unix.SK_MEMINFO_VARS]uint32{}
	}
	return info
}

// transient says whether an error of a socket was born of an ICMP message
// about some earlier datagram (icmp_err_convert in the kernel's icmp.c): it
// says nothing about this visit.
func transient(errno syscall.Errno) bool {
	switch errno {
	case unix.ECONNREFUSED, unix.EHOSTUNREACH, unix.ENETUNREACH, unix.EPROTO, unix.ENOPROTOOPT,
		unix.EMSGSIZE, unix.EOPNOTSUPP, unix.EHOSTDOWN, unix.ENONET, unix.EACCES:
		return true
	}
	return false
}
