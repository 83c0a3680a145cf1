package session

import (
	"sync/atomic"
	"time"
)

// drop is why a datagram was not delivered.
type drop uint8

const (
	dropNoPath drop = iota
	dropNoKeys
	dropWriteError
	dropBadHeader
	dropBadSeal
	dropReplayed
	dropUnproven
	dropBadFrame
	dropBadProbe
	dropBadPart
	dropTooLarge
	drops
)

var dropNames = [drops]string{"no-path", "no-keys", "write-error", "bad-header", "bad-seal", "replayed",
	"unproven-address", "bad-frame", "bad-probe", "bad-part", "too-large"}

// counters of one session.
type counters struct {
	txBytes, rxBytes         atomic.Uint64
	txDatagrams, rxDatagrams atomic.Uint64
	dropped                  [drops]atomic.Uint64
}

func (c *counters) drop(why drop, n int) { c.dropped[why].Add(uint64(n)) }

func (c *counters) sent(datagrams, bytes int) {
	c.txDatagrams.Add(uint64(datagrams))
	c.txBytes.Add(uint64(bytes))
}

func (c *counters) received(datagrams, bytes int) {
	c.rxDatagrams.Add(uint64(datagrams))
	c.rxBytes.Add(uint64(bytes))
}

// Counts is a reading of a session's counters. Bytes and datagrams are those
// of services, without what sealing adds; Dropped is by reason.
type Counts struct {
	TxBytes, RxBytes, TxDatagrams, RxDatagrams uint64
	Dropped                                    map[string]uint64
}

// Counts reads the counters.
func (s *Session) Counts() Counts {
	c := &s.counts
	out := Counts{
		TxBytes: c.txBytes.Load(), RxBytes: c.rxBytes.Load(),
		TxDatagrams: c.txDatagrams.Load(), RxDatagrams: c.rxDatagrams.Load(),
		Dropped: make(map[string]uint64),
	}
	if n := s.join.Lost(time.Now()); n > 0 {
		out.Dropped["incomplete"] = n
	}
	for why := range drops {
		if n := c.dropped[why].Load(); n > 0 {
			out.Dropped[dropNames[why]] = n
		}
	}
	return out
}
