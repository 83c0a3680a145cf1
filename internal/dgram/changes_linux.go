package dgram

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// The groups of rtnetlink(7) that tell of addresses, routes and links.
const changeGroups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV4_ROUTE | unix.RTMGRP_IPV6_IFADDR | unix.RTMGRP_IPV6_ROUTE

// openChanges opens a socket on which the kernel tells what changes.
func openChanges() (int, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return -1, fmt.Errorf("listen to changes of the network: netlink socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: changeGroups}); err != nil {
		return -1, errors.Join(fmt.Errorf("listen to changes of the network: bind the netlink socket: %w", err), unix.Close(fd))
	}
	return fd, nil
}

// tells says whether a message is of interest: all that the groups bring.
func tells([]byte) bool { return true }
