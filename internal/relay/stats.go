package relay

import "sync/atomic"

// reason is why the relay dropped datagrams.
type reason int

const (
	unknownSource reason = iota
	unknownAllocation
	badMAC
	oldCounter
	addressTaken
	otherUnbound
	heldTooLong
	overRate
	writeError
	reasons // their number
)

var reasonNames = [reasons]string{
	"unknown-source", "unknown-allocation", "bad-mac", "old-counter", "address-taken",
	"other-leg-unbound", "held-too-long", "over-rate", "write-error",
}

// Stats are totals since the server was made, and what lives now.
type Stats struct {
	Allocations int // that live
	Public      int // of these, of public ports
	Sessions    int // of which both legs are bound
	Datagrams   uint64
	Bytes       uint64
	Binds       uint64            // valid ones
	Moves       uint64            // valid binds from a new address
	Refused     uint64            // allocations not made, for a limit
	Drops       map[string]uint64 // datagrams by reason; every reason is there
}

type counters struct {
	datagrams, bytes, binds, moves, refused atomic.Uint64
	drops                                   [reasons]atomic.Uint64
}

func (c *counters) drop(why reason, n int) { c.drops[why].Add(uint64(n)) }

// Stats is a snapshot.
func (s *Server) Stats() Stats {
	st := Stats{
		Datagrams: s.count.datagrams.Load(),
		Bytes:     s.count.bytes.Load(),
		Binds:     s.count.binds.Load(),
		Moves:     s.count.moves.Load(),
		Refused:   s.count.refused.Load(),
		Drops:     make(map[string]uint64, reasons),
	}
	for why, name := range reasonNames {
		st.Drops[name] = s.count.drops[why].Load()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.Public = s.living.public
	for _, a := range s.allocations {
		if !a.gone() {
			st.Allocations++
			if a.both() {
				st.Sessions++
			}
		}
	}
	return st
}
