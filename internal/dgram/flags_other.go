//go:build !linux

package dgram

import "net/netip"

// flagsSix is empty where the kernel is not asked.
func flagsSix() map[netip.Addr]flags { return nil }
