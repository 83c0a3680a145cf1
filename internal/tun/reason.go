package tun

import "sync/atomic"

// Reason is why a packet or datagram was dropped.
type Reason uint8

// The reasons. Packets are of the device, datagrams of the network.
const (
	Carried    Reason = iota // it was not dropped
	NotTCP                   // a packet of another protocol
	Options                  // a packet with IPv4 options or IPv6 extension headers
	Fragment                 // a fragment of a packet
	BadLength                // a packet whose lengths contradict each other or what came
	Unknown                  // a packet to an address that stands for nobody
	TooLarge                 // a packet larger than the path
	Unsent                   // segments that the socket did not take
	NotSegment               // a datagram that is no TCP segment
	Stranger                 // a datagram of somebody who has no inside address and gets none
	Refused                  // a packet that the device did not take
	reasons
)

var reasonNames = [reasons]string{"", "not_tcp", "ip_options", "fragment", "bad_length", "unknown_destination", "too_large",
	"unsent", "not_a_segment", "stranger", "device_refused"}

func (r Reason) String() string { return reasonNames[r] }

// counters grow while the link runs; each counts packets and datagrams, a
// super-segment as one packet.
type counters struct {
	dropped  [reasons]atomic.Uint64
	sent     atomic.Uint64
	received atomic.Uint64
}

func (c *counters) drop(why Reason, n int) { c.dropped[why].Add(uint64(n)) }

// Stats are what a link has carried and dropped.
type Stats struct {
	Sent, Received uint64            // datagrams
	Dropped        map[string]uint64 // by reason, those that occurred
}

func (c *counters) stats() Stats {
	s := Stats{Sent: c.sent.Load(), Received: c.received.Load(), Dropped: map[string]uint64{}}
	for r := Carried + 1; r < reasons; r++ {
		if n := c.dropped[r].Load(); n > 0 {
			s.Dropped[r.String()] = n
		}
	}
	return s
}
