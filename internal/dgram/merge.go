package dgram

// merger lays messages end to end: one burst each run of the same source and
// size of datagram, of which the last may be shorter, as long as one write
// takes it.
type merger struct {
	arena *Arena
	open  bool // the last burst takes more
}

// add appends b to the arena. When it continues the last burst it becomes part
// of it: in place where its bytes are right behind, else by a copy. A long one
// does not: it was longer than its place in the lane, so a copy would run over
// the message behind it, which has not been looked at yet.
func (m *merger) add(b Burst, long bool) {
	if !m.open || long || !m.join(b) {
		m.arena.Add(b)
	}
	m.open = b.Size > 0 && len(b.Buf)%b.Size == 0
	if all := m.arena.bursts; m.open {
		m.open = b.Size == all[len(all)-1].Size
	}
}

func (m *merger) join(b Burst) bool {
	all := m.arena.bursts
	last := &all[len(all)-1]
	n := len(last.Buf)
	total := n + len(b.Buf)
	switch {
	case b.Addr != last.Addr || len(b.Buf) == 0:
		return false
	case b.Size != last.Size && (b.Len() > 1 || b.Size > last.Size):
		return false
	case total > MaxSegments*last.Size || total > min(cap(last.Buf), MaxBytes):
		return false
	}
	last.Buf = last.Buf[:total]
	if &last.Buf[n] != &b.Buf[0] {
		copy(last.Buf[n:], b.Buf)
	}
	return true
}
