package forward

import (
	"errors"
	"net"
	"sync/atomic"
	"syscall"

	"rendezvous/internal/dgram"
)

// reason is why datagrams were dropped, or what else is worth counting.
type reason int

const (
	unknownFlow   reason = iota // from the peer, for a flow that does not live
	refusedFlow                 // of a client, while the peer refuses the service
	notFromTarget               // to a flow's own socket, but not from its service
	heldOver                    // more than is held while a service's name is resolved
	tooLarge                    // larger than the way to the client or service
	serviceAbsent               // nobody listens there (ICMP)
	writeError
	badFrame // an Open, Opened or Close that is not well-formed, or of another instance
	evictedFlow
	expiredFlow
	refusedOpen // of the peer, by us
	noNumber    // of a new client, while every flow number is in use
	reasons
)

var reasonNames = [reasons]string{
	"unknown-flow", "refused", "not-from-service", "held-over", "too-large", "service-absent", "write-error",
	"bad-frame", "flows-evicted", "flows-expired", "opens-refused", "no-flow-number",
}

type counters [reasons]atomic.Uint64

func (c *counters) add(why reason, n int) { c[why].Add(uint64(n)) }

// write sends to a client or a service and counts what goes wrong: a datagram
// is never worth more than a count.
func (c *counters) write(conn dgram.Conn, b dgram.Burst) {
	err := conn.Write(b)
	switch {
	case err == nil:
	case dgram.IsTooLarge(err):
		c.add(tooLarge, b.Len())
	case errors.Is(err, syscall.ECONNREFUSED):
		c.add(serviceAbsent, b.Len())
	case errors.Is(err, net.ErrClosed):
		c.add(unknownFlow, b.Len()) // it ended while this was on its way
	default:
		c.add(writeError, b.Len())
	}
}

// Drops is what was dropped, in datagrams, and what else went wrong, by reason
// since the Flows were made. Every reason is there.
func (t *Flows) Drops() map[string]uint64 {
	out := make(map[string]uint64, reasons)
	for why, name := range reasonNames {
		out[name] = t.count[why].Load()
	}
	return out
}
