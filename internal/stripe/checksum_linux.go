package stripe

import (
	"net/netip"

	"golang.org/x/sys/unix"
)

// WithoutChecksums names an interface with one of these addresses that computes
// no checksums on sending; "" where there is none. What is sent there as one
// burst (UDP_SEGMENT) and translated leaves with wrong checksums: the kernel
// takes the sum of the burst for a whole one and not for the part that cutting
// completes, and mends it for the new port. Seen with Linux 6.18 on a TUN
// device; network cards and virtio compute them as a rule.
func WithoutChecksums(addrs []netip.Addr) string {
	for _, name := range interfacesOf(addrs) {
		if lacksChecksums(name) {
			return name
		}
	}
	return ""
}

// lacksChecksums asks by ETHTOOL_GTXCSUM, which takes no privilege. An interface
// that can't say is thought to compute them.
func lacksChecksums(name string) bool {
	value := question(1, unix.ETHTOOL_GTXCSUM)
	return ethtool(name, value) == nil && word(value, 1) == 0
}
