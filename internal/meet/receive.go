package meet

import (
	"bytes"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// receive routes what the socket brings, on its reader's goroutine.
func (m *meeting) receive(b dgram.Burst) {
	if proto.KindOf(b.Buf) == proto.KindData {
		m.receiveData(b)
		return
	}
	for d := range b.All() {
		m.receiveOne(dgram.One(b.Addr, d)) // data may follow a probe of its size
	}
}

// receiveData takes a burst that begins with data.
func (m *meeting) receiveData(b dgram.Burst) {
	m.mu.Lock()
	t := m.talks.byAddr[b.Addr]
	m.mu.Unlock()
	if t == nil {
		m.drop()
		return
	}
	t.Receive(m.rx, path.Path{Conn: m.conn, Addr: b.Addr}, path.DirectUDP, b)
}

func (m *meeting) receiveOne(b dgram.Burst) {
	switch proto.KindOf(b.Buf) {
	case proto.KindSTUN:
		m.stun.Receive(b.Addr, b.Buf)
	case proto.KindData:
		m.receiveData(b)
	case proto.KindProbe, proto.KindProbeAnswer:
		m.receiveProbe(b)
	case proto.KindMeet, proto.KindMet:
		answer, message, err := proto.ParseMeet(b.Buf)
		switch {
		case err != nil:
			m.drop()
		case answer:
			m.met(b.Addr, message)
		default:
			m.knocked(b.Addr, bytes.Clone(message))
		}
	case proto.KindPrime: // the network between is shorter than its hop limit
	default:
		m.drop()
	}
}

func (m *meeting) drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen.dropped++
}

// receiveProbe finds the session by token. A genuine probe makes its address
// the session's.
func (m *meeting) receiveProbe(b dgram.Burst) {
	h, err := proto.ParseProbeHeader(b.Buf)
	if err != nil {
		m.drop()
		return
	}
	m.mu.Lock()
	t := m.talks.byToken[h.Token]
	m.mu.Unlock()
	if t == nil || !t.Receive(m.rx, path.Path{Conn: m.conn, Addr: b.Addr}, path.DirectUDP, b) {
		m.drop()
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	_, known := m.talks.byAddr[b.Addr]
	if m.talks.byToken[h.Token] == t && (known || len(m.talks.byAddr) < maxAddrs) {
		m.talks.byAddr[b.Addr] = t
	}
}
