package agent

import (
	"sync"

	"rendezvous/internal/fastpath"
	"rendezvous/internal/path"
	"rendezvous/internal/session"
)

// FastPath is the kernel's forwarding of raw flows.
type FastPath struct {
	Kernel *fastpath.Kernel // nil: none
	Lacks  error            // why there is none, though it was asked for
}

// shortcuts is how the agent's flows do with it.
type shortcuts struct {
	mu      sync.Mutex
	refused error // why the last one that can't take it does not
}

// note says once why a flow can't be forwarded by the kernel.
func (s *shortcuts) note(a *Agent, err error) {
	s.mu.Lock()
	again := s.refused != nil && s.refused.Error() == err.Error()
	s.refused = err
	s.mu.Unlock()
	if !again {
		a.cfg.Log.Warn().Err(err).Msg("fastpath: a raw flow is forwarded by the agent")
	}
}

// status is nil where nobody asked for it.
func (s *shortcuts) status(f FastPath) *FastPathStatus {
	if f.Kernel == nil && f.Lacks == nil {
		return nil
	}
	if f.Lacks != nil {
		return &FastPathStatus{Error: f.Lacks.Error()}
	}
	st := &FastPathStatus{Flows: f.Kernel.Flows()}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused != nil {
		st.Error = s.refused.Error()
	}
	return st
}

// shortcut is a raw flow's way through the kernel (session.Detour). It is there
// while the path is direct, proven, not in doubt and in use: so an idle flow costs
// nothing, and its first datagram comes to the session, which then probes at once.
type shortcut struct {
	child *association
	told  fastpath.Counts // that the flow knows of; Follow's alone

	mu      sync.Mutex // for what follows; Kernel is never called under it
	detour  *fastpath.Detour
	flow    fastpath.Flow // of detour, or the one that can't be
	refused bool
	past    fastpath.Counts // of detours that ended
}

// Follow takes the way that the session gives, or none.
func (s *shortcut) Follow(w *session.Way) {
	s.tell()
	flow, ok := s.wanted(w)
	if s.flow != flow || !ok {
		s.end()
	}
	if !ok || s.refused {
		return
	}
	if s.detour == nil {
		s.begin(flow)
	}
	if s.detour == nil {
		return
	}
	if _, err := s.detour.Allow(w.Size); err != nil {
		s.end()
		s.refuse(flow, err)
	}
}

func (s *shortcut) begin(flow fastpath.Flow) {
	detour, err := s.child.a.cfg.Host.FastPath.Kernel.Begin(flow)
	if err != nil {
		s.refuse(flow, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.detour, s.flow = detour, flow
}

// refuse leaves a flow to the agent, as long as it goes where it does.
func (s *shortcut) refuse(flow fastpath.Flow, err error) {
	s.flow, s.refused = flow, true
	s.child.a.shortcuts.note(s.child.a, err)
}

// end gives the flow's datagrams back to the session.
func (s *shortcut) end() {
	s.refused = false
	if s.detour == nil {
		return
	}
	s.detour.End()
	last := s.detour.Counts()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.past = s.past.Plus(last)
	s.detour, s.flow = nil, fastpath.Flow{}
}

// wanted is the flow on a way, if it may take that and the child carries it.
func (s *shortcut) wanted(w *session.Way) (flow fastpath.Flow, ok bool) {
	key, p := rawKeyOf(s.child), s.child.peer
	if w == nil || !p.usesRaw(s.child) {
		return flow, false
	}
	local, remote, ok := p.flows.Near(key.flow, key.instance, path.DirectUDP)
	if !ok {
		return flow, false
	}
	// Where routes lead now: a flow whose source has changed is another.
	near, nearErr := fastpath.Ends{Local: local, Remote: remote}.Settled()
	wide, wideErr := fastpath.Ends{Local: w.Conn.LocalAddr(), Remote: w.Addr}.Settled()
	return fastpath.Flow{Near: near, Wide: wide, Token: s.child.Token()}, nearErr == nil && wideErr == nil
}

// usesRaw says whether child is what its flow uses.
func (p *peer) usesRaw(child *association) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.raws[rawKeyOf(child)]
	return st != nil && st.child == child
}

// tell lets the flow know that it is in use.
func (s *shortcut) tell() {
	now := s.counts()
	key := rawKeyOf(s.child)
	s.child.peer.flows.Passed(key.flow, key.instance, now.Tx != s.told.Tx, now.Rx != s.told.Rx)
	s.told = now
}

func (s *shortcut) counts() fastpath.Counts {
	s.mu.Lock()
	detour, past := s.detour, s.past
	s.mu.Unlock()
	if detour == nil {
		return past
	}
	return past.Plus(detour.Counts())
}

// Passed is what the kernel has forwarded of the flow.
func (s *shortcut) Passed() (tx, rx session.Passed) {
	c := s.counts()
	return session.Passed(c.Tx), session.Passed(c.Rx)
}
