package share

import (
	"container/list"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/sources"
)

// flow is one client's conversation with a backend over UDP: a socket before
// the backend that is its own.
type flow struct {
	key  flowKey
	rule *datagramRule
	conn dgram.Conn

	// guarded by table.mu
	used     time.Time
	answered bool
	place    *list.Element // in one of table's lists; nil once it has ended

	heard atomic.Int64 // seconds since the epoch of the last answer
}

type flowKey struct {
	door   *Door
	client netip.AddrPort
}

// table is all flows. Those that the backend has never answered are apart: they
// make room first, so that a flood of forged sources takes no place of a
// client's.
type table struct {
	limits Limits
	rate   *rate.Limiter
	from   *sources.Count

	mu               sync.Mutex
	flows            map[flowKey]*flow
	asking, answered *list.List // of *flow, the least recently used first
	closed           bool
}

func newTable(l Limits) table {
	return table{
		limits: l, rate: limiter(l.FlowsSecond), from: sources.NewCount(l.Flows+1, l.FlowsPerSource),
		flows: map[flowKey]*flow{}, asking: list.New(), answered: list.New(),
	}
}

// find gives the flow of a client, and notes that it is used.
func (t *table) find(k flowKey, now time.Time) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	f := t.flows[k]
	if f != nil {
		t.touch(f, now)
	}
	return f
}

// touch is for a datagram of the client's. t.mu is held.
func (t *table) touch(f *flow, now time.Time) {
	f.used = now
	if f.answered {
		t.answered.MoveToBack(f.place)
	} else {
		t.asking.MoveToBack(f.place)
	}
}

// heardOf is for a datagram of the backend's; first says that it is the first.
func (t *table) heardOf(f *flow, now time.Time) (first bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f.place == nil {
		return false
	}
	first = !f.answered
	if first {
		t.asking.Remove(f.place)
		f.answered = true
		f.place = t.answered.PushBack(f)
	}
	t.touch(f, now)
	return first
}

// put adds a flow, and gives the one that had to make room.
func (t *table) put(f *flow, now time.Time) (evicted *flow, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, false
	}
	if len(t.flows) >= t.limits.Flows {
		oldest := t.asking.Front()
		if oldest == nil {
			oldest = t.answered.Front()
		}
		evicted = oldest.Value.(*flow)
		t.remove(evicted)
	}
	f.used = now
	t.flows[f.key] = f
	f.place = t.asking.PushBack(f)
	return evicted, true
}

// remove takes a flow off; false when it was off already. t.mu is held.
func (t *table) remove(f *flow) bool {
	if f.place == nil {
		return false
	}
	if f.answered {
		t.answered.Remove(f.place)
	} else {
		t.asking.Remove(f.place)
	}
	f.place = nil
	delete(t.flows, f.key)
	return true
}

func (t *table) drop(f *flow) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.remove(f)
}

// idle takes off what was not used for too long.
func (t *table) idle(now time.Time) (out []*flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, each := range []struct {
		of    *list.List
		after time.Duration
	}{{t.asking, t.limits.Unanswered}, {t.answered, t.limits.Idle}} {
		for e := each.of.Front(); e != nil && now.Sub(e.Value.(*flow).used) >= each.after; e = each.of.Front() {
			f := e.Value.(*flow)
			t.remove(f)
			out = append(out, f)
		}
	}
	return out
}

// close takes off all, and lets nobody in any more.
func (t *table) close() (out []*flow) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	for _, f := range t.flows {
		t.remove(f)
		out = append(out, f)
	}
	return out
}

// begin makes a flow of a client that has none, and sends its first datagrams.
func (s *Sharing) begin(k flowKey, r *datagramRule, now time.Time, first ...[]byte) {
	source := k.client.Addr()
	if !s.flows.rate.AllowN(now, 1) || !s.flows.from.Enter(source) {
		s.count.refusedUDP.Add(uint64(len(first)))
		return
	}
	conn, err := s.network.ListenUDP(dgram.Near(r.to.UDP.Addr()))
	if err != nil {
		s.flows.from.Leave(source)
		s.count.socket.Add(uint64(len(first)))
		return
	}
	f := &flow{key: k, rule: r, conn: conn}
	evicted, ok := s.flows.put(f, now)
	if !ok {
		s.flows.from.Leave(source)
		_ = conn.Close() // nothing was sent
		return
	}
	if evicted != nil {
		s.count.evicted.Add(1)
		s.endFlows([]*flow{evicted})
	}
	r.to.flows.Add(1)
	r.to.total.Add(1)
	s.tasks.Go(func() {
		_ = path.Read(conn, func(b dgram.Burst) { s.back(f, b) }) // nil: it was closed
	})
	for _, d := range first {
		s.forth(f, dgram.One(k.client, d))
	}
}

// forth takes a client's datagrams to its backend.
func (s *Sharing) forth(f *flow, b dgram.Burst) {
	b.Addr = f.rule.to.UDP
	s.write(f.conn, b)
}

// back takes a backend's to its client. Whoever else finds the socket is not
// heard.
func (s *Sharing) back(f *flow, b dgram.Burst) {
	if b.Addr != f.rule.to.UDP {
		s.count.strange.Add(uint64(b.Len()))
		return
	}
	now := time.Now()
	if second := now.Unix(); f.heard.Swap(second) != second { // that is often enough
		f.rule.to.answered.Store(second)
		if s.flows.heardOf(f, now) {
			f.rule.to.works("udp")
		}
	}
	b.Addr = f.key.client
	s.write(f.key.door.conn, b)
}

func (s *Sharing) write(conn dgram.Conn, b dgram.Burst) {
	switch err := conn.Write(b); {
	case err == nil:
	case dgram.IsTooLarge(err):
		s.count.large.Add(uint64(b.Len()))
	default:
		s.count.write.Add(uint64(b.Len()))
	}
}

// expire ends what idles. A backend that did not answer a client in all that
// time, nor another one since, is down.
func (s *Sharing) expire(now time.Time) {
	idle := s.flows.idle(now)
	for _, f := range idle {
		if !f.answered {
			s.count.unanswered.Add(1)
			s.silent(f, now)
		}
	}
	s.endFlows(idle)
	s.forget(now)
}

// endFlows closes flows that were taken off the table.
func (s *Sharing) endFlows(all []*flow) {
	for _, f := range all {
		f.rule.to.flows.Add(-1)
		s.flows.from.Leave(f.key.client.Addr())
		_ = f.conn.Close() // its reader ends
	}
}
