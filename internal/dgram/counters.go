package dgram

import "sync/atomic"

// Stats counts the datagrams that a socket lost or had to treat differently, by
// reason.
type Stats struct {
	Full        uint64 // not sent: the socket's buffer or the device's queue stayed full
	TooLarge    uint64 // not sent: larger than the path
	Denied      uint64 // not sent: the host's own firewall said no, twice
	Unreachable uint64 // not sent: no route, or an ICMP error in place of the send
	Failed      uint64 // not sent for any other reason
	ICMP        uint64 // errors born of ICMP that a read or write swallowed
	Overflow    uint64 // not received: the socket's buffer was full
	OneByOne    uint64 // sent without segmentation offload, though they came as a burst
}

// StatsReader is a Conn that counts.
type StatsReader interface {
	Stats() Stats
}

// counters are Stats while they grow.
type counters struct {
	full, tooLarge, denied, unreachable, failed, icmp, oneByOne atomic.Uint64

	roll *roll // that the socket stands on
}

func (c *counters) enrol(r *roll, s StatsReader) {
	c.roll = r
	r.enter(s)
}

func (c *counters) stats() Stats {
	return Stats{
		Full:        c.full.Load(),
		TooLarge:    c.tooLarge.Load(),
		Denied:      c.denied.Load(),
		Unreachable: c.unreachable.Load(),
		Failed:      c.failed.Load(),
		ICMP:        c.icmp.Load(),
		OneByOne:    c.oneByOne.Load(),
	}
}
