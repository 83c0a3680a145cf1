package session

import (
	"errors"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// keeper is a conn whose datagrams arrive in their order or not at all: a
// stream of dgram's.
type keeper interface {
	AwaitKept(stop <-chan struct{}) (int, error)
	WriteKept(b dgram.Burst) error
}

var errNotKept = errors.New("the path has ended, or may lose what it carries")

// Kept is the path on which nothing is lost or overtaken while it lives: a TCP
// connection with the peer. With best it must be the one that data under the
// rule takes now, and not be in doubt.
func (s *Session) Kept(only path.Kinds, best bool) (p path.Path, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found *state
	for _, st := range s.paths.states {
		if st.kind == path.DirectTCP && only.Allows(st.kind) && st.usable() && better(st, found, nil) {
			found = st
		}
	}
	if best {
		if found = s.leading(only); found == nil || found.kind != path.DirectTCP {
			return path.Path{}, false
		}
	}
	if found == nil || s.cfg.Raw {
		return path.Path{}, false
	}
	_, ok = found.path.Conn.(keeper)
	return found.path, ok
}

// leading is the path that data under the rule takes now; nil while that is in
// doubt. s.mu is held.
func (s *Session) leading(only path.Kinds) *state {
	leads := s.paths.best
	for _, rl := range s.paths.rules {
		if rl.only == only {
			leads = rl.best
		}
	}
	if leads == nil || leads.doubt || !only.Allows(leads.kind) {
		return nil
	}
	return leads
}

// Leads is the path that data under the rule takes now, and of what kind; None
// while that is in doubt.
func (s *Session) Leads(only path.Kinds) (path.Path, path.Kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st := s.leading(only); st != nil {
		return st.path, st.kind
	}
	return path.Path{}, path.None
}

// AwaitKept waits until the path has room for datagrams of SendKept. It returns
// how many bytes they should have together.
func (s *Session) AwaitKept(p path.Path, stop <-chan struct{}) (int, error) {
	k, ok := p.Conn.(keeper)
	if !ok {
		return 0, errNotKept
	}
	return k.AwaitKept(stop)
}

// SendKept seals a burst of a flow and sends it on exactly this path, where none
// of it is dropped. The error says that the path does not do that any more.
func (s *Session) SendKept(p path.Path, flow uint16, b dgram.Burst) error {
	select {
	case <-s.done:
		return errNotKept
	default:
	}
	conn, ok := p.Conn.(keeper)
	k := s.keys.sending.Load()
	s.mu.Lock()
	st := s.paths.states[p]
	ok = ok && st != nil && !st.dead
	s.mu.Unlock()
	if !ok || k == nil {
		return errNotKept
	}
	if s.seen.touch(&s.seen.sent, s.cfg.Timers.Active) {
		s.poke()
	}
	s.counts.sent(b.Len(), len(b.Buf))
	buf := txBuffers.Get().(*[]byte)
	out := k.seal((*buf)[:0], flow, b)
	st.tx.Add(uint64(b.Len()))
	err := conn.WriteKept(dgram.Burst{Addr: p.Addr, Buf: out, Size: min(b.Size, len(b.Buf)) + proto.Overhead})
	*buf = out[:0]
	txBuffers.Put(buf)
	return err
}
