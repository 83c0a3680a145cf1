package session

import (
	"rendezvous/internal/path"
)

// Detour takes datagrams of a raw session past it, in the kernel.
type Detour interface {
	// Follow tells which way they may take now; nil: all are to go through the
	// session. The session calls it, on one goroutine, each time that it looks at
	// its paths.
	Follow(w *Way)
	// Passed is what has gone past the session since it began. It is called with
	// the session locked, and must be quick and call nothing of the session's.
	Passed() (tx, rx Passed)
}

// Way is the path that data takes while it is proven, in use and not in doubt.
type Way struct {
	path.Path
	Size int // of the largest datagram that crosses, in bytes
}

// Passed is datagrams, and the bytes in them.
type Passed struct{ Datagrams, Bytes uint64 }

// beside is what goes past the session. The session's mutex guards it.
type beside struct {
	on     *state // the path; nil: nothing does
	tx, rx Passed // as they were read last
}

// meter takes in what went past the session, so that probes tell how much was
// sent and came, and the session knows that it is in use. Caller holds s.mu.
func (s *Session) meter() {
	b := &s.paths.beside
	if b.on == nil {
		return
	}
	tx, rx := s.cfg.Detour.Passed()
	if n := tx.Datagrams - b.tx.Datagrams; n > 0 {
		b.on.tx.Add(n)
		s.counts.sent(int(n), int(tx.Bytes-b.tx.Bytes))
		s.seen.touch(&s.seen.sent, 0)
	}
	if n := rx.Datagrams - b.rx.Datagrams; n > 0 {
		b.on.rx += n
		s.counts.received(int(n), int(rx.Bytes-b.rx.Bytes))
		s.seen.touch(&s.seen.received, 0)
	}
	b.tx, b.rx = tx, rx
}

// lead tells the detour which way to go. A path that is in doubt, idle or not of
// its kind gets its datagrams from the session alone.
func (s *Session) lead(active bool) {
	if s.cfg.Detour == nil {
		return
	}
	s.mu.Lock()
	var w *Way
	on := s.paths.best
	if on != nil && active && on.kind == path.DirectUDP && on.usable() && !on.doubt && !on.failing {
		w = &Way{on.path, on.size.mtu}
	} else {
		on = nil
	}
	moves := s.paths.beside.on != on
	s.mu.Unlock()
	if moves {
		s.cfg.Detour.Follow(nil)
		s.mu.Lock()
		s.meter() // the rest of what the last path carried
		s.paths.beside.on = on
		s.mu.Unlock()
	}
	if w != nil {
		s.cfg.Detour.Follow(w)
	}
}
