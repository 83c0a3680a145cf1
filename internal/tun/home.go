package tun

import (
	"context"
	"net/netip"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// How often a dialing process says hello: until it is heard, every second at
// first and then less often, and once it was. That keeps the flows alive, which
// end after 3 min of silence, so that the other side can begin connections too.
const (
	helloFirst = time.Second
	helloEager = 20 // as often as that
	helloLater = 10 * time.Second
	helloEvery = time.Minute
	// silence is what Answers bears: two hellos and a bit.
	silence = 2*helloEvery + 10*time.Second
)

// Home is the one peer that a process has dialed. Each family crosses in a
// flow of its own, so each has a conn.
type Home struct {
	id    ID
	sides []*side
	reach atomic.Pointer[netip.AddrPort] // where the agent listens for us
	last  atomic.Int64                   // when something was heard, in Unix nanoseconds; 0: never
}

// side is one family's.
type side struct {
	conn   dgram.Conn
	inside netip.Addr
	heard  atomic.Bool
	due    time.Duration // of the next hello, and how many there were; Greet's own
	asked  int
}

// NewHome makes the peer with its inside addresses, each reached by a conn of
// its own.
func NewHome(conns map[netip.Addr]dgram.Conn) *Home {
	h := &Home{id: newID()}
	for inside, conn := range conns {
		h.sides = append(h.sides, &side{conn: conn, inside: inside})
	}
	return h
}

// Reach says where the agent listens for us.
func (h *Home) Reach(at netip.AddrPort) {
	h.reach.Store(&at)
	for _, s := range h.sides {
		s.heard.Store(false)
	}
}

// Source is Peers'.
func (h *Home) Source(now time.Time, way path.Path) (netip.Addr, bool) {
	at := h.reach.Load()
	for _, s := range h.sides {
		if s.conn == way.Conn && at != nil && *at == way.Addr {
			h.last.Store(now.UnixNano())
			return s.inside, true
		}
	}
	return netip.Addr{}, false
}

// Route is Peers'.
func (h *Home) Route(_ time.Time, inside netip.Addr) (path.Path, bool) {
	at := h.reach.Load()
	for _, s := range h.sides {
		if s.inside == inside && at != nil {
			return path.Path{Conn: s.conn, Addr: *at}, true
		}
	}
	return path.Path{}, false
}

// Tell is Peers'.
func (h *Home) Tell(now time.Time, way path.Path, b []byte) bool {
	m, ok := parseMessage(b)
	if !ok {
		return false
	}
	if _, known := h.Source(now, way); !known {
		return false
	}
	for _, s := range h.sides {
		switch {
		case s.conn != way.Conn:
		case m.kind == who:
			h.greet(s)
			return true
		case m.kind == heard && m.id == h.id && m.six == s.inside.Is6():
			s.heard.Store(true)
			return true
		}
	}
	return false
}

// Greet says hello until ctx ends.
func (h *Home) Greet(ctx context.Context) {
	tick := time.NewTicker(helloFirst)
	defer tick.Stop()
	for now := time.Duration(0); ; now += helloFirst {
		for _, s := range h.sides {
			if s.isDue(now) {
				h.greet(s)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// isDue says whether a hello is to be said now, and plans the next.
func (s *side) isDue(now time.Duration) bool {
	if s.heard.Load() {
		s.asked = 0
	} else if s.due = min(s.due, now+helloLater); s.asked < helloEager {
		s.due = min(s.due, now)
	}
	if now < s.due {
		return false
	}
	s.asked++
	s.due = now + helloEvery
	return true
}

func (h *Home) greet(s *side) {
	if at := h.reach.Load(); at != nil {
		say(path.Path{Conn: s.conn, Addr: *at}, message{kind: hello, six: s.inside.Is6(), id: h.id})
	}
}

// Answers says whether the peer was heard of lately.
func (h *Home) Answers(now time.Time) bool {
	last := h.last.Load()
	return last != 0 && now.Sub(time.Unix(0, last)) < silence
}
