package forward

import (
	"container/list"
	"net/netip"
	"sync/atomic"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// flow is one client's conversation with one service. Just one of out and in
// is set: which end of it is here.
type flow struct {
	number   uint16
	instance uint64 // of the dialing agent
	out      *outgoing
	in       *incoming

	route    atomic.Pointer[route] // to the client or service; nil while the service's name is resolved
	raw      atomic.Pointer[func(path.Kinds, dgram.Burst) bool]
	only     atomic.Uint32 // a path.Kinds: the rule of both ends
	used     atomic.Int64  // when, on the clock of the flows, rounded down by up to coarse
	answered atomic.Bool   // both sides have sent

	recent *list.Element // guarded by Flows.mu; nil once the flow has ended
}

// route is where datagrams from the peer go.
type route struct {
	conn dgram.Conn
	to   netip.AddrPort
}

// coarse is how exactly the last use of a flow is known. A flow in use then
// takes the table's lock a few times a second, not with each burst.
const coarse = 250 * time.Millisecond

// touch notes that the flow is used now.
func (t *Flows) touch(f *flow) {
	now := t.now()
	if now-time.Duration(f.used.Load()) < coarse {
		return
	}
	f.used.Store(int64(now))
	t.mu.Lock()
	if f.recent != nil {
		t.recent.MoveToFront(f.recent)
	}
	t.mu.Unlock()
}

// send carries what came from this side's client or service to the peer.
func (t *Flows) send(f *flow, b dgram.Burst) {
	only := f.rule()
	if raw := f.raw.Load(); raw != nil && (*raw)(only, b) {
		return
	}
	t.cfg.Carrier.Send(only, f.number, b)
}

// makeRoom ends the least recently used flows until one more may live. t.mu is
// held; finish them without it.
func (t *Flows) makeRoom(now time.Duration) (evicted []*flow) {
	for len(t.byNumber) >= t.cfg.Limits.Max {
		last := t.recent.Back().Value.(*flow)
		t.remove(last, now)
		t.count.add(evictedFlow, 1)
		evicted = append(evicted, last)
	}
	return evicted
}

// insert makes the flow live. t.mu is held.
func (t *Flows) insert(f *flow, now time.Duration) {
	f.used.Store(int64(now))
	f.recent = t.recent.PushFront(f)
	t.byNumber[f.number] = f
	if f.out != nil {
		f.out.dial.clients[f.out.client] = f
		t.outgoing++
	} else {
		f.in.service.flows.Add(1)
	}
}

// remove ends the flow in the table. t.mu is held.
func (t *Flows) remove(f *flow, now time.Duration) {
	if f.recent == nil {
		return
	}
	t.recent.Remove(f.recent)
	f.recent = nil
	delete(t.byNumber, f.number)
	if f.out != nil {
		delete(f.out.dial.clients, f.out.client)
		delete(t.unanswered, f)
		t.numbers.free(f.number, now)
		t.outgoing--
	} else {
		f.in.held = nil
		f.in.service.flows.Add(-1)
	}
}

// removeIf ends the flows for which it is true. t.mu is held.
func (t *Flows) removeIf(ends func(*flow) bool) (ended []*flow) {
	now := t.now()
	for _, f := range t.byNumber {
		if ends(f) {
			t.remove(f, now) // a map may lose entries while it is ranged over
			ended = append(ended, f)
		}
	}
	return ended
}

// finish closes the sockets of flows that were removed and, unless why is
// empty, tells the peer, if it knows of the flow. No lock is held.
func (t *Flows) finish(flows []*flow, why string) {
	for _, f := range flows {
		f.closeSocket()
		unknown := f.out != nil && (f.out.state == fresh || f.out.state == refused)
		if why != "" && !unknown {
			t.cfg.Carrier.SendFrame(0, closeFrame(f.number, f.instance, why))
		}
	}
}

// closeSocket closes an incoming flow's own socket; an outgoing one uses its
// dial's.
func (f *flow) closeSocket() {
	if f.in != nil && f.route.Load() != nil {
		f.in.far.Close()
	}
}

// closeConn closes a socket that nobody needs any more, so its error can't
// matter.
func closeConn(c dgram.Conn) { _ = c.Close() }

// closed handles the peer's Close. Instance 0 is any: the peer got datagrams
// of a flow that it does not know.
func (t *Flows) closed(m *proto.Close) {
	now := t.now()
	t.mu.Lock()
	f := t.byNumber[uint16(m.GetFlow())]
	if m.GetFlow() > proto.MaxFlow || f == nil || m.GetInstance() != 0 && m.GetInstance() != f.instance {
		t.mu.Unlock()
		return // it ended here as well
	}
	if f.in != nil {
		t.remove(f, now)
		t.mu.Unlock()
		t.finish([]*flow{f}, "")
		return
	}
	again := t.farEnded(f, now)
	t.mu.Unlock()
	t.announce(again...)
}
