package seal

import (
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/proto"
)

// split is how datagrams of one size are cut into parts: all of room bytes, but
// for the last of each, which may be shorter.
type split struct{ size, count, room int }

func splitOf(size int) split {
	const most = legRoom - proto.Overhead - proto.PartSize
	count := (size + most - 1) / most
	return split{size, count, (size + count - 1) / count}
}

// even says whether the parts are all of one size.
func (s split) even() bool { return s.count*s.room == s.size }

// payload is the i-th part's of a datagram.
func (s split) payload(d []byte, i int) []byte { return d[i*s.room : min((i+1)*s.room, s.size)] }

// partsOpen is how many datagrams may be under way in parts at a time: half of
// what the other side's Joiner keeps.
const partsOpen = 16

// sealParts seals a burst of datagrams that are too large, all of one size.
// Parts of one size leave as one burst, so where the last part of each is
// shorter the last ones follow together.
func (l *Leg) sealParts(buffer *legBuffer, b dgram.Burst, write func(dgram.Burst) error) error {
	p := parting{leg: l, cut: splitOf(b.Size), plain: buffer.part[:0]}
	p.out = run{Burst: dgram.Burst{Addr: b.Addr, Buf: buffer.burst[:0]}, write: write}
	for len(b.Buf) > 0 {
		n := min(partsOpen, b.Len())
		wave := b.Buf[:n*b.Size]
		b.Buf = b.Buf[len(wave):]
		id := l.parts.Add(uint32(n)) - uint32(n) + 1
		last := p.cut.count - 1
		if n == 1 || p.cut.even() {
			p.send(wave, id, 0, last+1)
			continue
		}
		p.send(wave, id, 0, last)
		p.send(wave, id, last, last+1)
	}
	p.out.flush()
	return p.out.err
}

// parting seals parts into a run.
type parting struct {
	leg   *Leg
	cut   split
	plain []byte // a part before it is sealed
	out   run
}

// send seals the parts from one index to before another of all datagrams in the
// wave, the first of which has the id.
func (p *parting) send(wave []byte, id uint32, from, to int) {
	size := p.cut.size
	n := uint64(len(wave) / size * (to - from))
	counter := p.leg.counter.Add(n) - n
	for ; len(wave) > 0; wave = wave[size:] {
		for i := from; i < to; i++ {
			p.plain = proto.AppendPart(p.plain[:0], proto.Part{
				Flow: legFlow, ID: id, Index: uint8(i), Count: uint8(p.cut.count), Payload: p.cut.payload(wave[:size], i),
			})
			p.seal(counter)
			counter++
		}
		id++
	}
}

// seal adds the part to the run.
func (p *parting) seal(counter uint64) {
	r, n := &p.out, len(p.plain)+proto.Overhead
	if r.count == dgram.MaxSegments || len(r.Buf)+n > dgram.MaxBytes || n > r.Size {
		r.flush()
	}
	if r.count == 0 {
		r.Size = n
	}
	r.Buf = p.leg.out.Seal(r.Buf, 0, proto.ControlFlow, counter, p.plain)
	if r.count++; n < r.Size {
		r.flush()
	}
}

// joining puts together datagrams whose parts come one behind the other, right
// where they are opened. What comes otherwise is the Joiner's.
type joining struct {
	leg   *Leg
	now   time.Time
	out   *run
	first proto.Part // of the datagram under way, whose parts so far lie behind out.Buf
	have  int        // parts; 0: none is under way
	size  int        // bytes
}

// take takes the part at start of opened, which begins with what lies in out and
// behind it.
func (j *joining) take(opened []byte, start int) {
	p, err := proto.ParsePart(opened[start:])
	if err != nil || p.Flow != legFlow {
		j.leg.drops.Add(1)
		return
	}
	if !j.next(p) {
		j.spill()
		if p.Index > 0 || p.Count > proto.MaxParts {
			if whole := j.keep(p); whole != nil {
				j.out.join(whole)
			}
			return
		}
		j.first = p
	}
	n := len(j.out.Buf)
	opened = append(opened[:n+j.size], p.Payload...)
	j.size += len(p.Payload)
	if j.have++; j.have == int(p.Count) {
		j.have, j.size = 0, 0
		j.out.add(opened, n)
	}
}

// next says whether a part is the next of the datagram under way.
func (j *joining) next(p proto.Part) bool {
	last := p.Index+1 == p.Count
	return j.have > 0 && p.ID == j.first.ID && p.Count == j.first.Count && int(p.Index) == j.have &&
		(last || len(p.Payload) == len(j.first.Payload))
}

// spill gives the Joiner what is under way. What that completes leaves at once,
// and not by way of the run's memory: a datagram may lie there, behind it.
func (j *joining) spill() {
	p, n, room := j.first, len(j.out.Buf), len(j.first.Payload)
	parts := j.out.Buf[n : n+j.size]
	for i := range j.have {
		p.Index, p.Payload = uint8(i), parts[i*room:(i+1)*room]
		if whole := j.keep(p); whole != nil {
			j.out.flush()
			j.out.note(j.out.write(dgram.One(j.out.Addr, whole)))
		}
	}
	j.have, j.size = 0, 0
}

// keep gives the Joiner a part, and returns the datagram that it completes.
func (j *joining) keep(p proto.Part) []byte {
	l := j.leg
	all := l.join.Load()
	if all == nil {
		l.join.CompareAndSwap(nil, new(proto.Joiner))
		all = l.join.Load()
	}
	whole, ok := all.Accept(j.now, p)
	if !ok {
		l.drops.Add(1)
	}
	return whole
}
