package faketcp

import (
	"encoding/binary"
	"math/rand/v2"
	"time"

	"rendezvous/internal/dgram"
)

// Packed mode: a datagram's first 12 bytes travel in the fields sequence
// number, acknowledgement, window and urgent pointer, so that the segment is
// as long as the UDP datagram would be.
//
//	packed segment   ACK|PSH|URG, the four fields are payload, masked
//	other            ACK, or ACK|PSH
//
// The mask is worked out from the rest of the datagram, so that the fields of
// any two segments have nothing in common: datagrams of ours begin alike, and
// what begins alike would pass a box that checks numbers against a window all
// together, or not at all. As it is, one segment in eight passes such a box by
// luck, and a proof of many never does.
//
// URG is what tells them apart: NATs look at ports and SYN, FIN, RST only; a
// box that mends headers clears the urgent pointer where URG is not set, and
// one that clears URG with it spoils the proof; and no receive offload merges
// segments that have it. PSH could not do it: of a run that the kernel cuts,
// only the last keeps it.
//
// A run of packed segments can't be cut by the kernel. So only those datagrams
// are packed that are longer than the longest which a check saw cross plain,
// and all others keep segmentation offload: a path has UDP's size, and what
// does not fill it UDP's speed.
const (
	packedFlags = flagACK | flagPSH | flagURG
	packedBytes = 12
)

// packing is what a flow knows of packed mode.
type packing struct {
	state  packState
	plain  int // the longest datagram that crosses unpacked
	nonce  uint64
	misses uint8
	next   time.Duration // of the next proof
}

type packState uint8

const (
	packUntried packState = iota
	packProven
	packGivenUp // for good
)

func (p *packing) proven() bool { return p.state == packProven }

// The proof is asked for again this often; of so many questions in a row one
// must be answered.
const (
	proofEvery = 10 * time.Second
	proofAgain = time.Second
	proofTries = 5
)

func (t *table) giveUpPacked(f *flow) {
	if f.packed.state == packProven {
		t.counts.PackedFailed++
	}
	f.packed.state = packGivenUp
}

// checkPacked asks for the proof again, and gives up where it stays out while
// the flow is well.
func (t *table) checkPacked(now time.Duration, f *flow) {
	p := &f.packed
	if !p.proven() || now < p.next {
		return
	}
	if p.misses >= proofTries {
		t.giveUpPacked(f)
		return
	}
	if f.unanswered(now, silence) {
		return // nothing gets through at all
	}
	if p.misses == 0 {
		p.nonce = rand.Uint64()
	}
	p.misses++
	p.next = now + proofAgain
	m := message{kind: kindAsk, nonce: p.nonce, length: leastPacked, flags: flagPacked}
	body := make([]byte, leastPacked)
	m.put(body)
	s, rest := f.pack(body)
	t.out = append(t.out, outgoing{segment: s, body: rest})
}

// proofCame takes the answer to a periodic proof.
func (f *flow) proofCame(now time.Duration, nonce uint64) bool {
	p := &f.packed
	if !p.proven() || p.misses == 0 || nonce != p.nonce {
		return false
	}
	p.misses, p.next = 0, now+proofEvery
	return true
}

// pack makes the header that carries d's first bytes; the rest is its payload.
func (f *flow) pack(d []byte) (segment, []byte) {
	s := segment{local: f.local, remote: f.remote, flags: packedFlags}
	packInto(&s, d)
	return s, d[packedBytes:]
}

func packInto(s *segment, d []byte) {
	be := binary.BigEndian
	m := maskOf(d[packedBytes:])
	s.seq, s.ack = be.Uint32(d)^m.seq, be.Uint32(d[4:])^m.ack
	s.window, s.urgent = be.Uint16(d[8:])^m.window, be.Uint16(d[10:])^m.urgent
}

// mask is what the four fields of a packed segment are combined with.
type mask struct {
	seq, ack       uint32
	window, urgent uint16
}

// maskOf mixes the length and the last eight bytes of a packed segment's
// payload, which of a sealed datagram are part of its tag (the finalizer of
// SplitMix64, by Steele, Lea and Flood 2014). It hides nothing from anybody.
func maskOf(rest []byte) mask {
	var last [8]byte
	copy(last[:], rest[max(0, len(rest)-len(last)):])
	state := binary.BigEndian.Uint64(last[:]) + uint64(len(rest))
	a, b := mix(state+0x9e3779b97f4a7c15), mix(state+0x3c6ef372fe94f82a)
	return mask{seq: uint32(a >> 32), ack: uint32(a), window: uint16(b >> 16), urgent: uint16(b)}
}

func mix(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// unpack appends the datagram that s and rest carry.
func unpack(to []byte, s *segment, rest []byte) []byte {
	be := binary.BigEndian
	m := maskOf(rest)
	to = be.AppendUint32(to, s.seq^m.seq)
	to = be.AppendUint32(to, s.ack^m.ack)
	to = be.AppendUint16(to, s.window^m.window)
	to = be.AppendUint16(to, s.urgent^m.urgent)
	return append(to, rest...)
}

// mayPack says whether packed segments are understood here at all.
func (c *Conn) mayPack() bool { return c.table.opts.Packed && !c.shared }

// unpackRun takes packed segments. Called under mu.
func (c *Conn) unpackRun(f *flow, s *segment, b dgram.Burst) {
	if !c.mayPack() || b.Len() != 1 {
		c.table.counts.PackedAlien += uint64(b.Len()) // merged ones have lost all headers but the first
		return
	}
	r := &c.reading
	n := len(r.unpack)
	if cap(r.unpack)-n < len(b.Buf)+packedBytes {
		r.unpack, n = make([]byte, 0, dgram.SlotSize), 0 // what was handed out keeps the old memory
	}
	r.unpack = unpack(r.unpack, s, b.Buf)
	d := r.unpack[n:len(r.unpack):len(r.unpack)]
	if isCheck(d) {
		c.checked(f, s, d)
		return
	}
	c.hand(dgram.One(b.Addr, d))
}

// writePacked sends a burst whose datagrams are longer than what crosses
// plain; the last may be shorter.
func (c *Conn) writePacked(f *flow, b dgram.Burst, s *segment) error {
	c.mu.Lock()
	local, plain := f.local, f.packed.plain
	c.mu.Unlock()
	for d := range b.All() {
		one := dgram.One(b.Addr, d)
		now := c.now()
		c.mu.Lock()
		if len(d) <= plain {
			c.table.write(now, f, one, s)
		} else {
			*s = segment{local: local, remote: f.remote, flags: packedFlags}
			packInto(s, d)
			one = dgram.One(b.Addr, d[packedBytes:])
			f.lastOut = now
			c.table.counts.Sent++
			c.table.counts.Packed++
		}
		c.wind(now, fastTick)
		c.mu.Unlock()
		if err := c.dev.send(s, one); err != nil {
			return err
		}
	}
	return nil
}
