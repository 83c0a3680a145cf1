package faketcp

import (
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tallies are what a device counts.
type tallies struct {
	malformed, badSum, foreign, cutOff atomic.Uint64 // packets that came and were no use
	oneByOne, full, retried            atomic.Uint64
	overflow                           atomic.Uint64
}

// tally is what was lost or went the slow way, by reason. The names are for
// metrics.
func (l *link) tally() map[string]uint64 {
	l.overflow.Add(uint64(l.overflowed()))
	return map[string]uint64{
		"malformed":  l.malformed.Load(), // packets whose headers contradict themselves
		"checksum":   l.badSum.Load(),    // segments with a wrong checksum
		"foreign":    l.foreign.Load(),   // segments that this host only forwards
		"truncated":  l.cutOff.Load(),    // packets of more than 64 KiB
		"overflow":   l.overflow.Load(),  // packets for which the kernel had no room
		"one_by_one": l.oneByOne.Load(),  // datagrams that left in a system call each
		"queue_full": l.full.Load(),      // datagrams dropped, the interface's queue being full
		"retried":    l.retried.Load(),   // sends tried again
	}
}

// overflowed is PACKET_STATISTICS' drops, which each asking sets to 0.
func (l *link) overflowed() uint32 {
	var stats unix.TpacketStats
	size := uint32(unsafe.Sizeof(stats))
	_ = control(l.packets.raw, func(fd int) error { // closed: nothing to add
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS,
			uintptr(unsafe.Pointer(&stats)), uintptr(unsafe.Pointer(&size)), 0)
		if errno != 0 {
			stats.Drops = 0
		}
		return nil
	})
	return stats.Drops
}
