package dgram

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// control has room for two control messages of an int each, where the kernel
// writes or reads them. It is of uint64 so that it is aligned for struct
// cmsghdr.
type control [6]uint64

// put writes the control message at offset at, with a value of size bytes, 2
// or 4; it returns the offset of the next.
func (c *control) put(at int, level, kind int32, value, size int) int {
	hdr := (*unix.Cmsghdr)(unsafe.Add(unsafe.Pointer(c), at))
	hdr.Level, hdr.Type = level, kind
	hdr.SetLen(unix.CmsgLen(size))
	data := unsafe.Add(unsafe.Pointer(c), at+unix.CmsgLen(0))
	if size == 2 {
		*(*uint16)(data) = uint16(value)
	} else {
		*(*int32)(data) = int32(value)
	}
	return at + unix.CmsgSpace(size)
}

// segment is what UDP_GRO says about a message in n bytes of control messages:
// the size of the datagrams that it was merged from; 0 when it is one datagram.
func (c *control) segment(n int) int {
	if n < unix.CmsgLen(4) {
		return 0
	}
	hdr := (*unix.Cmsghdr)(unsafe.Pointer(c))
	if hdr.Level != unix.IPPROTO_UDP || hdr.Type != unix.UDP_GRO {
		return 0
	}
	return int(*(*int32)(unsafe.Add(unsafe.Pointer(c), unix.CmsgLen(0))))
}
