//go:build linux

package hop

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// Verdict is what a box does with a packet.
type Verdict uint8

// The verdicts.
const (
	Forward Verdict = iota
	Discard
	Refuse // and the sender of the segment gets a RST
)

// Passage is a packet at a box.
type Passage struct {
	Packet  []byte        // may be altered in place
	Outward bool          // from the port that the box stands at
	Now     time.Duration // CLOCK_MONOTONIC
	Random  *rand.Rand
}

// Box stands at a port, between it and the rest of the internet, and sees all
// packets of both directions. Pass is called by one goroutine only.
type Box interface {
	Pass(p Passage) Verdict
}

// SetBoxes puts boxes at a port, innermost first, in place of those that stand
// there.
func (n *Internet) SetBoxes(name string, boxes ...Box) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	p, err := n.named(name)
	if err == nil {
		p.boxes = boxes
	}
	return err
}

// pass takes a packet through the boxes of both its ports.
func (n *Internet) pass(from, to *port, packet []byte) bool {
	if len(from.boxes) == 0 && len(to.boxes) == 0 {
		return true
	}
	p := Passage{Packet: packet, Outward: true, Now: monotonic(), Random: n.random}
	for _, b := range from.boxes {
		if v := b.Pass(p); v != Forward {
			n.refuse(v, from, packet)
			return false
		}
	}
	p.Outward = false
	for _, b := range slices.Backward(to.boxes) {
		if v := b.Pass(p); v != Forward {
			n.refuse(v, from, packet)
			return false
		}
	}
	return true
}

func (n *Internet) refuse(v Verdict, from *port, packet []byte) {
	segment, ok := TCP(packet)
	if v != Refuse || !ok {
		return
	}
	if answer := resetFor(n.buffer()[:0], packet, segment); answer != nil {
		n.push(item{at: monotonic(), from: from, to: from, packet: answer})
	}
}

// maxFlows bounds what boxes remember; a lab has a few dozen.
const maxFlows = 10_000

// Renumber rewrites sequence numbers as firewalls do that randomise them: an
// offset for each direction of each flow, added to the sequence and taken from
// what acknowledges it.
type Renumber struct {
	Same  uint32 // the offset of all flows; 0 draws one for each flow and direction
	flows map[Flow]offsets
}

type offsets struct{ outward, inward uint32 }

// Pass rewrites every segment.
func (r *Renumber) Pass(p Passage) Verdict {
	s, ok := TCP(p.Packet)
	if !ok {
		return Forward
	}
	o := r.offsets(flowOf(p.Packet, s, p.Outward), p.Random)
	forth, back := o.outward, o.inward
	if !p.Outward {
		forth, back = back, forth
	}
	s.alter(func() {
		add(s[4:], forth)
		if s.Has(flagACK) {
			add(s[8:], -back)
		}
		s.eachOption(func(option []byte) {
			if option[0] == optionSACK {
				for edge := option[2:]; len(edge) >= 4; edge = edge[4:] {
					add(edge, -back)
				}
			}
		})
	})
	return Forward
}

func (r *Renumber) offsets(f Flow, random *rand.Rand) offsets {
	if r.Same != 0 {
		return offsets{r.Same, r.Same}
	}
	o, known := r.flows[f]
	if !known {
		if r.flows == nil || len(r.flows) >= maxFlows {
			r.flows = map[Flow]offsets{}
		}
		o = offsets{random.Uint32(), random.Uint32()}
		r.flows[f] = o
	}
	return o
}

func add(b []byte, n uint32) { binary.BigEndian.PutUint32(b, binary.BigEndian.Uint32(b)+n) }

// ClampWindow lets no window field be larger than Most, and so no more be
// under way than that, scaled.
type ClampWindow struct{ Most uint16 }

// Pass alters the segments whose window is larger.
func (c ClampWindow) Pass(p Passage) Verdict {
	if s, ok := TCP(p.Packet); ok && s.Window() > c.Most {
		s.alter(func() { binary.BigEndian.PutUint16(s[14:], c.Most) })
	}
	return Forward
}

// StripOptions overwrites all options with NOPs but those of the kinds that it
// keeps.
type StripOptions struct{ Keep []byte }

// Pass strips every segment.
func (o StripOptions) Pass(p Passage) Verdict {
	if s, ok := TCP(p.Packet); ok {
		s.alter(func() {
			s.eachOption(func(option []byte) {
				if !slices.Contains(o.Keep, option[0]) {
					for i := range option {
						option[i] = optionNop
					}
				}
			})
		})
	}
	return Forward
}

// Protocols of Lose and Police, as IP numbers them.
const (
	OnlyTCP = protoTCP
	OnlyUDP = 17
)

// Lose loses a share (0 to 1) of one protocol's packets, in both directions.
type Lose struct {
	Protocol int
	Share    float64
}

// Pass draws lots.
func (l Lose) Pass(p Passage) Verdict {
	if _, protocol := payload(p.Packet); protocol == l.Protocol && p.Random.Float64() < l.Share {
		return Discard
	}
	return Forward
}

// Police drops what one protocol sends above a rate, in each direction by
// itself, without delaying the rest.
type Police struct {
	Protocol int
	Rate     int64 // bits per second
	Burst    int   // bytes that may pass at once; 0 is 20 ms of Rate, or 3000
	Dropped  atomic.Uint64
	buckets  [2]bucket
}

type bucket struct {
	filled time.Duration // when level was right
	level  float64       // bytes
}

// Pass takes the packet's size out of its direction's bucket.
func (l *Police) Pass(p Passage) Verdict {
	if _, protocol := payload(p.Packet); protocol != l.Protocol {
		return Forward
	}
	size, rate := float64(l.Burst), float64(l.Rate)/8
	if size == 0 {
		size = max(3000, rate/50)
	}
	b := &l.buckets[0]
	if p.Outward {
		b = &l.buckets[1]
	}
	if b.filled == 0 {
		b.level = size
	} else {
		b.level = min(size, b.level+rate*(p.Now-b.filled).Seconds())
	}
	b.filled = p.Now
	if b.level < float64(len(p.Packet)) {
		l.Dropped.Add(1)
		return Discard
	}
	b.level -= float64(len(p.Packet))
	return Forward
}
