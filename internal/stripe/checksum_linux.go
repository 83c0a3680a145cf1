package stripe

import (
	"net"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WithoutChecksums names an interface with one of these addresses that computes
// no checksums on sending; "" where there is none. What is sent there as one
// burst (UDP_SEGMENT) and translated leaves with wrong checksums: the kernel
// takes the sum of the burst for a whole one and not for the part that cutting
// completes, and mends it for the new port. Seen with Linux 6.18 on a TUN
// device; network cards and virtio compute them as a rule.
func WithoutChecksums(addrs []netip.Addr) string {
	all, err := net.Interfaces()
	if err != nil {
		return ""
	}
	for _, i := range all {
		own, err := i.Addrs()
		has := err == nil && slices.ContainsFunc(own, func(a net.Addr) bool {
			p, err := netip.ParsePrefix(a.String())
			return err == nil && slices.Contains(addrs, p.Addr().Unmap())
		})
		if has && lacksChecksums(i.Name) {
			return i.Name
		}
	}
	return ""
}

// lacksChecksums asks by ETHTOOL_GTXCSUM (linux/ethtool.h), which takes no
// privilege. An interface that can't say is thought to compute them.
func lacksChecksums(name string) bool {
	if len(name) >= unix.IFNAMSIZ {
		return false
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer func() { _ = unix.Close(fd) }() // nothing was sent on it
	value := struct{ command, data uint32 }{command: unix.ETHTOOL_GTXCSUM}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte // the rest of the kernel's union
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request)))
	return errno == 0 && value.data == 0
}
