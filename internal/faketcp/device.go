// Package faketcp carries datagrams dressed as TCP segments, one to one: each
// stays a datagram, and nothing is sent twice or waited for.
package faketcp

import (
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
)

// Flags of a TCP header (RFC 9293 section 3.1).
const (
	flagFIN = 1 << iota
	flagSYN
	flagRST
	flagPSH
	flagACK
	flagURG
)

// segment is the header of one TCP segment, or of the first of a run.
//
// Where a segment is to be sent, the address of local may be zero or
// unspecified: the route to remote then says which of the host's own it is;
// and a ttl of 0 is 64. A received one's local is the address that it came to.
type segment struct {
	local, remote  netip.AddrPort
	seq, ack       uint32
	flags          uint8
	window, urgent uint16 // window as on the wire: not scaled
	options        []byte // padded to four bytes; at most 40; valid during the visit only
	ttl            uint8  // of IPv4, or the hop limit
}

// device takes segments to the kernel and brings them from there.
type device interface {
	// send lets b's datagrams leave as a run of segments of b.Size bytes, the
	// sequence number running on by each one's length; PSH and FIN stand on
	// the last alone. An empty b.Buf is one segment without payload. b.Addr is
	// not looked at. A segment larger than the interface's MTU gives an error
	// for which dgram.IsTooLarge is true. It may be called from many
	// goroutines at once, and keeps neither s nor b.
	send(s *segment, b dgram.Burst) error
	// receive makes one visit to the kernel for what came from anyone, and
	// waits until something did. visit is called for each run, in the order of
	// arrival: its first segment's header, and its payloads with their
	// boundaries (b.Addr is the sender; an empty b.Buf is a segment without
	// payload). s is valid during the call, b.Buf as long as the arena's
	// bursts are: until its Reset or Release. The arena is Reset first, and
	// nothing is added to it. Ends with net.ErrClosed, or
	// os.ErrDeadlineExceeded. One goroutine at a time.
	receive(a *dgram.Arena, visit func(s *segment, b dgram.Burst)) error
	// local is the address listened on, with its real port.
	local() netip.AddrPort
	setReadDeadline(t time.Time) error
	// close ends a waiting receive, and lets go of the port.
	close() error
}

// DeviceCounts is what was lost or went the slow way between this program and
// the network, by reason; nil where the device does not count.
func (c *Conn) DeviceCounts() map[string]uint64 {
	if d, ok := c.dev.(interface{ tally() map[string]uint64 }); ok {
		return d.tally()
	}
	return nil
}
