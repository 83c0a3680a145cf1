package rendezvous

import (
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"rendezvous/internal/relay"
	"rendezvous/proto"
)

// Bounds of splices. Agents keep what crosses awake, so that an idle one has
// lost an end.
const (
	spliceMeet  = 10 * time.Second // for the other leg to come
	spliceIdle  = 90 * time.Second // without a byte
	spliceEach  = 16               // of one allocation: one for each rule and side, and those that are being drained
	spliceAll   = 4096
	spliceOne   = spliceAll / 16       // of one member, so that none takes what all need
	spliceRest  = 2 * time.Millisecond // until more may pass
	splicePiece = 32 << 10             // bytes, of a buffer in each direction
)

// splices are the streams of bytes between two legs of an allocation. What one
// side sends waits for the other to read it: nothing is dropped.
type splices struct {
	open  atomic.Int64
	bytes atomic.Uint64

	mu      sync.Mutex
	limits  spliceLimits
	all     int                 // ends
	of      map[proto.Token]int // ends, of each allocation
	members map[string]int      // ends, of each member
	waiting map[spliceName]*spliceEnd
}

// spliceLimits are how many splices there may be: at all, of one member, and of
// one allocation. An end that waits counts like one that was met.
type spliceLimits struct{ all, member, allocation int }

func newSplices() splices {
	return splices{
		limits: spliceLimits{all: spliceAll, member: spliceOne, allocation: spliceEach},
		of:     map[proto.Token]int{}, members: map[string]int{}, waiting: map[spliceName]*spliceEnd{},
	}
}

// SpliceStatus is the coordinator's part of the streams between relay legs.
type SpliceStatus struct {
	Open  int    `json:"open"`
	Bytes uint64 `json:"bytes"`
}

func (s *splices) status() SpliceStatus {
	return SpliceStatus{Open: int(s.open.Load()), Bytes: s.bytes.Load()}
}

type spliceName struct {
	allocation proto.Token
	number     uint64
}

// spliceEnd is one leg's end. When both have met, the second copies; the first
// waits until done.
type spliceEnd struct {
	*relay.Splice
	member string
	stream *yamux.Stream
	met    chan struct{}
	done   chan struct{}
}

// splice joins a stream with that of the other leg, until both directions have
// ended.
func (t *trunk) splice(stream *yamux.Stream) {
	all := &t.front.splices
	end := t.spliceEnd(stream)
	if end == nil || !all.enter(end) {
		t.front.drops.splices.Add(1)
		return
	}
	defer all.leave(end)
	other, first := all.meet(end)
	switch {
	case first:
		if !all.await(end, t.session.CloseChan()) {
			t.front.drops.splices.Add(1)
		}
	case other == nil: // this leg waits already
		t.front.drops.splices.Add(1)
	default:
		defer close(other.done)
		all.carry(end, other)
	}
}

// spliceEnd reads what a splice begins with; nil where it gives no right.
func (t *trunk) spliceEnd(stream *yamux.Stream) *spliceEnd {
	m, err := t.front.server.registry.ByKey(t.key)
	if err != nil {
		return nil
	}
	var bind [proto.BindSize]byte
	if stream.SetReadDeadline(time.Now().Add(greetWithin)) != nil {
		return nil
	}
	if _, err := io.ReadFull(stream, bind[:]); err != nil {
		return nil
	}
	leg, err := t.front.server.relay.Splice(m.Name, bind[:])
	if err != nil || stream.SetReadDeadline(time.Time{}) != nil {
		return nil
	}
	return &spliceEnd{Splice: leg, member: m.Name, stream: stream, met: make(chan struct{}), done: make(chan struct{})}
}

func (e *spliceEnd) name() spliceName {
	allocation, _, number := e.Name()
	return spliceName{allocation, number}
}

func (s *splices) enter(e *spliceEnd) bool {
	at := e.name().allocation
	s.mu.Lock()
	defer s.mu.Unlock()
	// A splice has two ends, but each member one of them.
	if s.all >= 2*s.limits.all || s.of[at] >= 2*s.limits.allocation || s.members[e.member] >= s.limits.member {
		return false
	}
	s.all++
	s.of[at]++
	s.members[e.member]++
	return true
}

func (s *splices) leave(e *spliceEnd) {
	at := e.name()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[at] == e {
		delete(s.waiting, at)
	}
	s.all--
	if s.members[e.member]--; s.members[e.member] == 0 {
		delete(s.members, e.member)
	}
	if s.of[at.allocation]--; s.of[at.allocation] == 0 {
		delete(s.of, at.allocation)
	}
}

// meet gives the end of the other leg, if that is there; the first of the two
// is to wait. It is neither for another one of a leg that waits already.
func (s *splices) meet(e *spliceEnd) (other *spliceEnd, first bool) {
	at := e.name()
	s.mu.Lock()
	defer s.mu.Unlock()
	other = s.waiting[at]
	if other == nil {
		s.waiting[at] = e
		return nil, true
	}
	_, mine, _ := e.Name()
	if _, theirs, _ := other.Name(); mine == theirs {
		return nil, false
	}
	delete(s.waiting, at)
	close(other.met)
	return other, false
}

// await waits for the other leg, and then until it has carried; false where it
// did not come.
func (s *splices) await(e *spliceEnd, closed <-chan struct{}) bool {
	limit := time.NewTimer(spliceMeet)
	defer limit.Stop()
	select {
	case <-e.met:
	case <-limit.C:
	case <-e.Over():
	case <-closed:
	}
	at := e.name()
	s.mu.Lock()
	if s.waiting[at] == e {
		delete(s.waiting, at)
		s.mu.Unlock()
		return false
	}
	s.mu.Unlock()
	<-e.done
	return true
}

// carry copies both ways.
func (s *splices) carry(a, b *spliceEnd) {
	s.open.Add(1)
	defer s.open.Add(-1)
	var moved atomic.Uint64
	over := make(chan struct{})
	var watch, ways sync.WaitGroup
	watch.Go(func() { watchSplice(a, b, &moved, over) })
	for _, way := range [][2]*spliceEnd{{a, b}, {b, a}} {
		ways.Go(func() {
			from, to := way[0], way[1]
			counted := &splicing{from: from, to: to.stream, over: from.Over(), moved: &moved, total: &s.bytes}
			if _, err := to.stream.Write(to.Bound()); err != nil {
				cutSplice(a, b)
				return
			}
			_, err := io.CopyBuffer(counted, struct{ io.Reader }{from.stream}, make([]byte, splicePiece))
			if err != nil {
				cutSplice(a, b)
				return
			}
			_ = to.stream.Close() // yamux's is that of one direction
		})
	}
	ways.Wait()
	close(over)
	watch.Wait()
}

// splicing is one direction, at the rate of a session.
type splicing struct {
	from  *spliceEnd
	to    io.Writer
	over  <-chan struct{}
	moved *atomic.Uint64
	total *atomic.Uint64
}

// Write is io.Writer's. It waits for the rate, and for the reader.
func (w *splicing) Write(b []byte) (int, error) {
	for !w.from.Take(time.Now(), len(b)) {
		rest := time.NewTimer(spliceRest)
		select {
		case <-rest.C:
		case <-w.over:
			rest.Stop()
			return 0, io.ErrClosedPipe
		}
	}
	n, err := w.to.Write(b)
	w.moved.Add(uint64(n))
	w.total.Add(uint64(n))
	return n, err
}

// watchSplice cuts a splice that is idle, or whose allocation has ended.
func watchSplice(a, b *spliceEnd, moved *atomic.Uint64, over <-chan struct{}) {
	tick := time.NewTicker(spliceIdle)
	defer tick.Stop()
	for last := uint64(0); ; {
		select {
		case <-over:
			return
		case <-a.Over():
			cutSplice(a, b)
			return
		case <-tick.C:
			now := moved.Load()
			if now == last {
				cutSplice(a, b)
				return
			}
			last = now
		}
	}
}

// cutSplice ends the reads and writes of both ends at once; their trunks close
// the streams.
func cutSplice(a, b *spliceEnd) {
	past := time.Now().Add(-time.Second)
	_, _ = a.stream.SetDeadline(past), b.stream.SetDeadline(past)
}
