package stream

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// A read of the local connection wants room for at least this much; what is
// left of a block is used when there is as much, and else lost.
const (
	leastSmallRead = 512
	leastLargeRead = largeBlock / 4
)

// outgoing is one direction of a connection on its sender's side: what was read
// of the local connection and is not acknowledged, as it travels. Offsets count
// the connection's bytes from its beginning; the FIN is one more. The
// connection's mutex guards it.
type outgoing struct {
	blocks []*block
	base   uint64 // how many blocks stood before blocks[0]
	next   uint64 // offset behind all that was read
	acked  uint64 // all before it has arrived
	limit  uint64 // the other side takes no more than up to here
	memory int    // bytes of blocks
	fin    bool
	large  bool // the next block is worth being large
	failed bool // nobody waits for room any more
	room   sync.Cond
	total  *atomic.Int64 // bytes of blocks, of all connections
}

// block is pieces as they travel, end to end with their headers.
type block struct {
	buf        []byte // lent
	begin, end uint64 // offsets of its first byte, and behind its last
	readers    int    // writes that read its memory
	filling    bool   // its room is being read into
	gone       bool   // it is acknowledged and goes back when nobody uses it
}

// cursor is how far an attachment has sent.
type cursor struct {
	at   uint64 // number of the block
	pos  int    // bytes of the block's that were sent
	off  uint64 // offset behind what was sent
	lead []byte // what comes first: the rest of a piece that a resumption cut, under a header of its own
}

// space waits until more may be read and gives memory for it: room behind the
// header that the bytes will need. nil when the connection has ended.
func (o *outgoing) space(most func() int) (*block, []byte) {
	for !o.failed && (o.next >= o.limit || o.memory >= most()) {
		o.room.Wait()
	}
	if o.failed {
		return nil, nil
	}
	least := leastSmallRead
	if o.large {
		least = leastLargeRead
	}
	b := o.last()
	if b == nil || cap(b.buf)-len(b.buf) < headerSize+least {
		b = o.begin(o.large)
	}
	b.filling = true
	at := len(b.buf) + headerSize
	n := uint64(min(cap(b.buf)-at, mostData))
	return b, b.buf[at : at+int(min(n, o.limit-o.next))]
}

// filled takes n bytes that were read into the room that space gave.
func (o *outgoing) filled(b *block, n, room int) {
	b.filling = false
	if n > 0 {
		at := len(b.buf)
		b.buf = b.buf[:at+headerSize+n]
		putHeader(b.buf[at:], pieceData, n)
		b.end += uint64(n)
		o.next += uint64(n)
		o.large = n == room || n >= smallBlock
	}
	o.tidy()
}

// finish appends the FIN.
func (o *outgoing) finish() {
	b := o.last()
	if b == nil || cap(b.buf)-len(b.buf) < headerSize {
		b = o.begin(false)
	}
	b.buf = appendHeader(b.buf, pieceFIN, 0)
	b.end++
	o.next++
	o.fin = true
}

// begin appends an empty block.
func (o *outgoing) begin(large bool) *block {
	b := &block{buf: lend(large), begin: o.next, end: o.next}
	o.hold(cap(b.buf))
	o.blocks = append(o.blocks, b)
	return b
}

func (o *outgoing) hold(n int) {
	o.memory += n
	o.total.Add(int64(n))
}

func (o *outgoing) last() *block {
	if len(o.blocks) == 0 {
		return nil
	}
	return o.blocks[len(o.blocks)-1]
}

// ended says whether the other side has all, the FIN too.
func (o *outgoing) ended() bool { return o.fin && o.acked == o.next }

// holds says whether all behind off is still here.
func (o *outgoing) holds(off uint64) bool { return off >= o.acked && off <= o.next }

// acknowledge forgets what arrived. The caller has checked the offset.
func (o *outgoing) acknowledge(off uint64) {
	if off > o.acked {
		o.acked = off
		o.tidy()
	}
}

// allow moves the limit.
func (o *outgoing) allow(limit uint64) {
	if limit > o.limit {
		o.limit = limit
		o.room.Signal()
	}
}

// tidy gives back blocks that are acknowledged.
func (o *outgoing) tidy() {
	n := 0
	for _, b := range o.blocks {
		if b.end > o.acked || b.filling {
			break
		}
		n++
		o.hold(-cap(b.buf))
		b.gone = true
		b.done(0)
	}
	if n == 0 {
		return
	}
	o.base += uint64(n)
	left := copy(o.blocks, o.blocks[n:])
	clear(o.blocks[left:])
	o.blocks = o.blocks[:left]
	o.room.Signal()
}

// done ends n reads of the block's memory.
func (b *block) done(n int) {
	b.readers -= n
	if b.gone && b.readers == 0 {
		giveBack(b.buf)
		b.buf = nil
	}
}

// abandon forgets everything; nobody waits for room any more.
func (o *outgoing) abandon() {
	o.failed = true
	o.acked = o.next
	o.tidy()
	o.room.Broadcast()
}

// take gives what is to be sent next, and moves the cursor behind it. The
// block is held until done. nil when there is nothing.
func (o *outgoing) take(c *cursor) (b []byte, from *block) {
	if c.lead != nil {
		b, c.lead = c.lead, nil
		c.off += uint64(len(b) - headerSize)
		return b, nil
	}
	if c.at < o.base {
		c.at, c.pos = o.base, 0
	}
	for c.at < o.base+uint64(len(o.blocks)) {
		from = o.blocks[c.at-o.base]
		if c.pos < len(from.buf) {
			b = from.buf[c.pos:]
			c.pos, c.off = len(from.buf), from.end
			from.readers++
			return b, from
		}
		if from == o.last() {
			break // more may come in it
		}
		c.at, c.pos = c.at+1, 0
	}
	return nil, nil
}

// seek gives the cursor from which all behind off is sent, for which holds is
// true.
func (o *outgoing) seek(off uint64) cursor {
	for i, b := range o.blocks {
		if off < b.end {
			return b.seek(o.base+uint64(i), off)
		}
	}
	c := cursor{at: o.base + uint64(len(o.blocks)), off: off}
	if last := o.last(); last != nil {
		c.at, c.pos = c.at-1, len(last.buf)
	}
	return c
}

func (b *block) seek(number, off uint64) cursor {
	pos, at := 0, b.begin
	for {
		n := int(binary.BigEndian.Uint32(b.buf[pos:]) & 0xffffff)
		size := uint64(n)
		if b.buf[pos] == pieceFIN {
			size = 1
		}
		switch {
		case at == off:
			return cursor{at: number, pos: pos, off: off}
		case off < at+size:
			end := pos + headerSize + n
			rest := b.buf[end-int(at+size-off) : end]
			return cursor{at: number, pos: end, off: off, lead: append(appendHeader(nil, pieceData, len(rest)), rest...)}
		}
		pos += headerSize + n
		at += size
	}
}
