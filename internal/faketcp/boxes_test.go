package faketcp

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// line delays, and loses some.
type line struct {
	delay time.Duration
	loss  float64
	rng   *rand.Rand
	lose  func(d course, p *parcel) bool
	lost  int
	queue [3][]*parcel // by direction; timers of one instant fire in any order
}

func (l *line) pass(w *wire, at int, d course, p *parcel) *parcel {
	if l.loss > 0 && l.rng.Float64() < l.loss || l.lose != nil && l.lose(d, p) {
		l.lost++
		return nil
	}
	q := &l.queue[d+1]
	*q = append(*q, p)
	time.AfterFunc(l.delay, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		first := (*q)[0]
		*q = (*q)[1:]
		w.walk(at+int(d), d, first)
	})
	return nil
}

// shifter adds a random constant to the sequence numbers of each flow, another
// one for each direction. A strict one resets the connection where the numbers
// are not those of a real one: an ACK below the other's SYN, a SYN with
// another number.
type shifter struct {
	rng    *rand.Rand
	strict bool
	both   bool // shifts both directions
	flows  map[[2]netip.AddrPort]*shifted
	resets int
}

type shifted struct {
	by  [2]uint32
	isn [2]uint32
	has [2]bool
}

func (x *shifter) pass(w *wire, at int, d course, p *parcel) *parcel {
	k, i := [2]netip.AddrPort{p.local, p.remote}, 0
	if d == leftwards {
		k, i = [2]netip.AddrPort{p.remote, p.local}, 1
	}
	f := x.flows[k]
	if f == nil {
		if !p.has(flagSYN) {
			return p
		}
		f = &shifted{by: [2]uint32{x.rng.Uint32(), 0}}
		if x.both {
			f.by[1] = x.rng.Uint32()
		}
		if x.flows == nil {
			x.flows = make(map[[2]netip.AddrPort]*shifted)
		}
		x.flows[k] = f
	}
	if x.strict && x.wrong(f, i, p) {
		x.resets++
		w.walk(at-int(d), -d, &parcel{segment: segment{local: p.remote, remote: p.local, seq: p.ack, flags: flagRST, ttl: 64}})
		return nil
	}
	q := *p
	q.seq += f.by[i]
	if p.has(flagACK) {
		q.ack -= f.by[1-i]
	}
	return &q
}

func (x *shifter) wrong(f *shifted, i int, p *parcel) bool {
	if p.has(flagSYN) {
		if f.has[i] && f.isn[i] != p.seq {
			return true
		}
		f.isn[i], f.has[i] = p.seq, true
	}
	if p.has(flagACK) && !p.has(flagRST) {
		return !f.has[1-i] || after(f.isn[1-i]+f.by[1-i]+1, p.ack)
	}
	return false
}

// edit changes segments.
type edit func(d course, p *parcel)

func (e edit) pass(_ *wire, _ int, d course, p *parcel) *parcel {
	q := *p
	e(d, &q)
	return &q
}

// sieve drops what it says.
type sieve func(d course, p *parcel) bool

func (s sieve) pass(_ *wire, _ int, d course, p *parcel) *parcel {
	if s(d, p) {
		return nil
	}
	return p
}

// splitter is a box that ends the connection and begins its own: it delivers
// bytes in order only, acknowledges what it has, and cuts anew if recut.
type splitter struct {
	recut  bool
	drops  bool // throws away what is out of order
	next   [2]uint32
	known  [2]bool
	parked [2][]*parcel
	bytes  [2][]byte
}

func (x *splitter) pass(w *wire, at int, d course, p *parcel) *parcel {
	i := 0
	if d == leftwards {
		i = 1
	}
	if p.remote != rightAddr && p.local != rightAddr {
		return p // it keeps one connection
	}
	if p.has(flagSYN) {
		x.next[i], x.known[i] = p.seq+1, true
		return p
	}
	if !x.known[i] || len(p.payload) == 0 {
		return p
	}
	if p.seq != x.next[i] {
		if after(p.seq, x.next[i]) && !x.drops {
			x.parked[i] = append(x.parked[i], p)
		}
		return nil
	}
	x.forward(w, at, d, i, p)
	for again := true; again; {
		again = false
		for k, q := range x.parked[i] {
			if q.seq == x.next[i] {
				x.parked[i] = slices.Delete(x.parked[i], k, k+1)
				x.forward(w, at, d, i, q)
				again = true
				break
			}
		}
	}
	a := &parcel{segment: segment{local: p.remote, remote: p.local, seq: p.ack, ack: x.next[i], flags: flagACK, window: p.window, ttl: 64}}
	w.walk(at-int(d), -d, a)
	return nil
}

func (x *splitter) forward(w *wire, at int, d course, i int, p *parcel) {
	x.next[i] += uint32(len(p.payload))
	if !x.recut {
		w.walk(at+int(d), d, p)
		return
	}
	if len(x.bytes[i]) == 0 {
		time.AfterFunc(time.Millisecond, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			all := x.bytes[i]
			x.bytes[i] = nil
			seq := x.next[i] - uint32(len(all))
			for piece := range slices.Chunk(all, 1400) {
				q := *p
				q.seq, q.payload = seq, piece
				seq += uint32(len(piece))
				w.walk(at+int(d), d, &q)
			}
		})
	}
	x.bytes[i] = append(x.bytes[i], p.payload...)
}
