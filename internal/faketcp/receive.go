package faketcp

import (
	"time"

	"rendezvous/internal/dgram"
)

// reading is what the one reader of a Conn keeps.
type reading struct {
	visit  func(s *segment, b dgram.Burst)
	arena  *dgram.Arena
	now    time.Duration // of this visit to the kernel; 0 before its first run
	unpack []byte        // memory of packed datagrams put together again
	spare  []outgoing    // memory of what is sent after a visit
}

// Read is dgram.Conn's. Between the visits that bring datagrams it makes the
// handshakes, ACKs and checks' answers of everyone on this port.
func (c *Conn) Read(a *dgram.Arena) ([]dgram.Burst, error) {
	r := &c.reading
	a.Reset()
	for {
		r.arena, r.now, r.unpack = a, 0, r.unpack[:0]
		err := c.dev.receive(a, r.visit)
		if r.now != 0 {
			c.answer()
		}
		if bursts := a.Bursts(); len(bursts) > 0 {
			return bursts, nil // an error comes again
		}
		if err != nil {
			return nil, err
		}
	}
}

// answer sends what this visit asked for.
func (c *Conn) answer() {
	r := &c.reading
	c.mu.Lock()
	c.table.settle(r.now)
	out := c.table.out
	c.table.out = r.spare[:0]
	if n := len(c.table.flows); n > 0 && len(out) > 0 {
		c.wind(r.now, unheardTick)
	} else if n > 0 {
		c.wind(r.now, fastTick)
	}
	c.mu.Unlock()
	c.deliver(out)
	clear(out)
	r.spare = out[:0]
}

// visit takes one run from the device.
func (c *Conn) visit(s *segment, b dgram.Burst) {
	r := &c.reading
	if r.now == 0 {
		r.now = c.now()
	}
	s.remote = key(s.remote)
	b.Addr = s.remote
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	f := c.table.receive(r.now, s, len(b.Buf), b.Len())
	if f == nil || len(b.Buf) == 0 {
		return
	}
	if s.flags&flagURG != 0 {
		c.unpackRun(f, s, b)
		return
	}
	if c.anyCheck(b) {
		c.sortChecks(f, s, b)
		return
	}
	c.hand(b)
}

// hand gives a burst to who reads.
func (c *Conn) hand(b dgram.Burst) {
	c.table.counts.Received += uint64(b.Len())
	c.reading.arena.Add(b)
}

// anyCheck says whether a check's datagram is in b.
func (c *Conn) anyCheck(b dgram.Burst) bool {
	for at := 0; at < len(b.Buf); at += b.Size {
		if b.Buf[at] == checkByte && isCheck(b.Buf[at:min(at+b.Size, len(b.Buf))]) {
			return true
		}
	}
	return false
}

// sortChecks keeps the checks' datagrams of a run, and hands out the others.
func (c *Conn) sortChecks(f *flow, s *segment, b dgram.Burst) {
	at := 0
	for d := range b.All() {
		if isCheck(d) {
			came := *s
			came.seq += uint32(at)
			c.checked(f, &came, d)
		} else {
			c.hand(dgram.One(b.Addr, d))
		}
		at += len(d)
	}
}
