package faketcp

import "rendezvous/internal/dgram"

// holeSize is how many bytes a gap leaves out: a question's, so that it can be
// filled with one.
const holeSize = 120

// skip leaves a hole that again fills.
func (v *conversation) skip() {
	c := v.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.table.flows[v.to]; f != nil {
		v.asked = append(v.asked, question{seq: f.nxt, length: holeSize, at: c.now()})
		f.nxt += holeSize
	}
}

// ask sends the next question, of n bytes.
func (v *conversation) ask(n int, packed bool) {
	c := v.conn
	now := c.now()
	c.mu.Lock()
	f := c.table.flows[v.to]
	if f == nil || len(v.asked) >= mostQuestions {
		c.mu.Unlock()
		return
	}
	v.asked = append(v.asked, question{seq: f.nxt, length: n, at: now, packed: packed})
	s, body := c.question(f, v.nonce, len(v.asked)-1, v.asked[len(v.asked)-1])
	if !packed {
		f.nxt += uint32(n)
	}
	f.owed, f.lastAck, f.lastOut = 0, now, now
	c.wind(now, fastTick)
	c.mu.Unlock()
	_ = c.dev.send(&s, dgram.One(v.to, body)) // one that does not leave is not answered
}

// fill sends all again from the first hole on, and what was left out with it.
func (v *conversation) fill() {
	for i := v.hole; i < len(v.asked); i++ {
		v.again(i)
	}
}

// again sends a question with the numbers that it had, or fills a hole.
func (v *conversation) again(i int) {
	c := v.conn
	c.mu.Lock()
	f := c.table.flows[v.to]
	if f == nil {
		c.mu.Unlock()
		return
	}
	s, body := c.question(f, v.nonce, i, v.asked[i])
	c.mu.Unlock()
	_ = c.dev.send(&s, dgram.One(v.to, body))
}

// question makes a question's segment. Called under mu.
func (c *Conn) question(f *flow, nonce uint64, number int, q question) (segment, []byte) {
	m := c.told(f)
	m.kind, m.nonce, m.number, m.length = kindAsk, nonce, uint8(number), uint16(q.length)
	s := f.segment(flagPSH|flagACK, c.table.window)
	s.seq = q.seq
	body := make([]byte, q.length)
	if q.packed {
		m.flags |= flagPacked
		m.put(body)
		return f.pack(body)
	}
	m.sent = fields{s.seq, s.ack, s.window}
	m.put(body)
	return s, body
}

// told is what every message says of its sender. Called under mu.
func (c *Conn) told(f *flow) message {
	m := message{ownISN: f.iss, ownMSS: c.table.opts.MSS, look: f.saw}
	if f.knows {
		m.flags, m.itsISN, m.itsMSS = flagKnows, f.irs, f.mss
	}
	if c.shared {
		m.flags |= flagPlain
	}
	return m
}

// checked takes a check's datagram: a question is answered, by one that is
// never longer. Called under mu.
func (c *Conn) checked(f *flow, s *segment, d []byte) {
	t := c.table
	t.counts.Checks++
	var m message
	m.parse(d)
	m.arrived = fields{s.seq, s.ack, s.window}
	if m.recut() {
		t.counts.Recut++
	}
	packed := s.flags&flagURG != 0
	if packed && m.recut() { // its length is in the header's fields
		t.counts.BadCheck++
		t.giveUpPacked(f)
		return
	}
	if m.kind == kindAnswer {
		v := c.checks[m.nonce]
		switch {
		case v != nil && v.to == f.remote:
			if m.flags&flagPacked != 0 && !packed {
				m.flags &^= flagPacked // a box cleared URG, or the peer lies
			}
			select {
			case v.answers <- heard{m, c.reading.now}:
			default:
			}
		case !packed || !f.proofCame(c.reading.now, m.nonce):
			t.counts.BadCheck++
		}
		return
	}
	if len(t.out) >= mostAnswers {
		t.counts.Crowded++
		return
	}
	c.answerCheck(f, &m, packed)
}

// answerCheck answers a question in the form that it came in. Called under mu.
func (c *Conn) answerCheck(f *flow, m *message, packed bool) {
	t := c.table
	size := checkSize
	if packed {
		size = leastPacked
	}
	if m.asCame < size {
		t.counts.BadCheck++
		return
	}
	a := c.told(f)
	a.kind, a.nonce, a.number, a.length, a.came, a.saw = kindAnswer, m.nonce, m.number, uint16(size), uint16(m.asCame), m.arrived
	body := make([]byte, size)
	head := f.segment(flagPSH|flagACK, t.window)
	if packed {
		a.flags |= flagPacked
		a.put(body)
		head, body = f.pack(body)
	} else {
		a.sent = fields{head.seq, head.ack, head.window}
		a.put(body)
		f.nxt += uint32(size)
	}
	f.owed, f.lastAck = 0, c.reading.now
	t.out = append(t.out, outgoing{segment: head, body: body})
}
