package dgram

import "golang.org/x/sys/windows"

// dontFragment is IP_DONTFRAGMENT and IPV6_DONTFRAG of ws2ipdef.h.
const dontFragment = 14

func forbidFragments(fd uintptr, six bool) error {
	level := windows.IPPROTO_IP
	if six {
		level = windows.IPPROTO_IPV6
	}
	return windows.SetsockoptInt(windows.Handle(fd), level, dontFragment, 1)
}
