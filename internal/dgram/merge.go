package dgram

// merger lays datagrams that came one by one end to end: one burst each run of
// the same source and size, of which the last may be shorter.
type merger struct {
	arena *Arena
	open  bool // the last burst takes more
}

// add appends b to the arena. When it continues the last burst it becomes part
// of it: in place where its bytes are right behind, else by a copy.
func (m *merger) add(b Burst) {
	single := len(b.Buf) == b.Size && b.Size > 0
	if m.open && single && m.join(b) {
		return
	}
	m.arena.Add(b)
	m.open = single
}

func (m *merger) join(b Burst) bool {
	all := m.arena.bursts
	last := &all[len(all)-1]
	n := len(last.Buf)
	if b.Size > last.Size || b.Addr != last.Addr || n+b.Size > min(cap(last.Buf), MaxBytes) || n >= MaxSegments*last.Size {
		return false
	}
	last.Buf = last.Buf[:n+b.Size]
	if &last.Buf[n] != &b.Buf[0] {
		copy(last.Buf[n:], b.Buf)
	}
	m.open = b.Size == last.Size
	return true
}
