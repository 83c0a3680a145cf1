package share

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"rendezvous/internal/dgram"
)

// datagramRule is a rule over UDP with its backend.
type datagramRule struct {
	Rule
	to     *backend
	shapes []Shape
}

// datagramRules are those for UDP.
type datagramRules struct {
	quic, rest []*datagramRule
}

func (t *datagramRules) add(r Rule, to *backend) {
	with := &datagramRule{Rule: r, to: to, shapes: r.shapes()}
	if r.Is == QUIC {
		t.quic = append(t.quic, with)
	} else {
		t.rest = append(t.rest, with)
	}
}

// shapes are those of a client's first datagram.
func (r *Rule) shapes() []Shape {
	switch r.Is {
	case WireGuard:
		return wireGuard()
	case DTLS:
		return dtls()
	case Bytes:
		return []Shape{r.Bytes}
	case OpenVPN:
		if len(r.Keys) > 0 {
			return nil // see match
		}
		return openVPNData()
	}
	return nil
}

// match finds whose a client's first datagram is; nil: nobody's.
func (t *datagramRules) match(d []byte) *datagramRule {
	keys, vpn := keysOf(d)
	for _, r := range t.rest {
		if vpn && r.Is == OpenVPN && (len(r.Keys) == 0 || slices.Contains(r.Keys, keys)) {
			return r
		}
		if slices.ContainsFunc(r.shapes, func(s Shape) bool { return s.matches(d) }) {
			return r
		}
	}
	return nil
}

func (t *datagramRules) forHello(h Hello) *datagramRule {
	for _, r := range t.quic {
		if r.takes(h) {
			return r
		}
	}
	return nil
}

// Door is a UDP socket that is shared.
type Door struct {
	sharing *Sharing
	conn    dgram.Conn

	mu        sync.Mutex // Receive against forget
	gathering map[flowKey]*gathering
}

// Door shares a socket whose owner reads it.
func (s *Sharing) Door(conn dgram.Conn) *Door {
	d := &Door{sharing: s, conn: conn, gathering: map[flowKey]*gathering{}}
	s.flows.mu.Lock()
	defer s.flows.mu.Unlock()
	s.doors = append(s.doors, d)
	return d
}

// Receive takes a burst that came in. What is not for others it gives to own,
// perhaps later than it came, but in order. Call it from one goroutine.
func (d *Door) Receive(b dgram.Burst, own func(dgram.Burst)) {
	now := time.Now()
	key := flowKey{d, b.Addr}
	f := d.sharing.flows.find(key, now)
	if f != nil && !d.breaks(b) {
		d.sharing.forth(f, b)
		return
	}
	for each := range b.All() {
		d.one(key, f, each, now, own)
		f = d.sharing.flows.find(key, now)
	}
}

// breaks says whether a burst has a datagram that is no part of its flow.
func (d *Door) breaks(b dgram.Burst) bool {
	for each := range b.All() {
		if d.sharing.own.Datagram(each) || looksInitial(each) {
			return true
		}
	}
	return false
}

// one takes one datagram, of a flow or of none.
func (d *Door) one(key flowKey, f *flow, b []byte, now time.Time, own func(dgram.Burst)) {
	s := d.sharing
	switch {
	case s.own.Datagram(b):
		own(dgram.One(key.client, b))
	case looksInitial(b) && (f == nil || f.rule.Is != QUIC) && d.initial(key, f, b, now, own):
	case f != nil:
		s.forth(f, dgram.One(key.client, b))
	default:
		if r := s.udp.match(b); r != nil {
			s.begin(key, r, now, b)
			return
		}
		own(dgram.One(key.client, b))
	}
}

// initial takes what looks like an Initial packet of QUIC. It is one if it
// opens, and then no datagram of another protocol: a flow that is there ends.
// False: it is none.
func (d *Door) initial(key flowKey, f *flow, b []byte, now time.Time, own func(dgram.Burst)) bool {
	s := d.sharing
	if f == nil && len(s.udp.quic) == 0 {
		own(dgram.One(key.client, b)) // ours, or nobody's
		return true
	}
	p, err := parseInitial(b)
	if err != nil {
		return false
	}
	frames, err := p.open()
	if err != nil {
		return false
	}
	if f != nil && s.flows.drop(f) {
		s.endFlows([]*flow{f})
	}
	held, h, err := d.gather(key, frames, b, now)
	if errors.Is(err, errPart) {
		return true
	}
	if r := s.udp.forHello(h); err == nil && r != nil && !s.own.owns(h) {
		s.begin(key, r, now, held...)
		return true
	}
	for _, each := range held {
		own(dgram.One(key.client, each))
	}
	return true
}

var errPart = errors.New("there is only a part yet")

// gather adds a datagram to what is there of a client's ClientHello. When that
// is whole, or can't become so, it gives all of the client's datagrams.
func (d *Door) gather(key flowKey, frames, b []byte, now time.Time) (held [][]byte, h Hello, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g := d.gathering[key]
	if g == nil {
		g = &gathering{since: now}
	}
	hello, err := g.add(frames)
	if err == nil && hello == nil && len(g.held)+1 < gatherEach {
		if d.gathering[key] == nil && len(d.gathering) >= gatherMost {
			d.sharing.count.incomplete.Add(1)
			return nil, h, errPart
		}
		g.held = append(g.held, bytes.Clone(b))
		d.gathering[key] = g
		return nil, h, errPart
	}
	delete(d.gathering, key)
	held = append(g.held, b)
	if hello == nil { // it can't become whole, or takes too many datagrams
		return held, h, errNoHello
	}
	h, err = parseHello(hello)
	return held, h, err
}

// forget drops the ClientHellos that did not become whole in time.
func (s *Sharing) forget(now time.Time) {
	s.flows.mu.Lock()
	doors := s.doors
	s.flows.mu.Unlock()
	for _, d := range doors {
		d.mu.Lock()
		for k, g := range d.gathering {
			if now.Sub(g.since) >= gatherFor {
				s.count.incomplete.Add(1)
				delete(d.gathering, k)
			}
		}
		d.mu.Unlock()
	}
}

// silent notes that a client had no answer, and whether nobody has.
func (s *Sharing) silent(f *flow, now time.Time) {
	if f.rule.to.answered.Load() < now.Add(-s.limits.Unanswered).Unix() {
		f.rule.to.failed("udp", f.rule.to.UDP.String(), fmt.Errorf("no answer in %v", s.limits.Unanswered))
	}
}
