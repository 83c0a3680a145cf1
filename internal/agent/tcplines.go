package agent

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/stream"
	"rendezvous/proto"
)

// lines are the byte streams with a peer over the TCP connection that is the
// best path. There a carrier needs no second congestion control: yamux in the
// stream does, whose datagrams the path never drops.
type lines struct {
	of        *connections
	malformed atomic.Uint64
	steady    steadyPath

	mu     sync.Mutex
	ours   map[uint32]*stream.Line
	theirs map[uint32]*stream.Line
	last   uint32 // of ours
	told   uint32 // of theirs, that there is none such
	closed bool
}

// mostLines bounds those that the peer has begun at once. Of those one is in use
// for each rule, and others are being drained.
const mostLines = 64

var errNoLine = errors.New("the best path is no TCP connection with the peer")

// begin makes a carrier over the path that the rule's data takes, if that is
// TCP.
func (s *lines) begin(only path.Kinds) (carrierLink, stream.Carrier, error) {
	as := s.of.p.association()
	if as == nil || !as.Ready() {
		return nil, nil, errNoLine
	}
	at, ok := as.Kept(only, true)
	if !ok {
		return nil, nil, errNoLine
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, stream.ErrClosed
	}
	s.last++
	line := s.line(as, at, stream.LineHeader{Only: only, ID: s.last})
	session, err := yamux.Client(line, stream.YamuxConfig())
	if err != nil {
		return nil, nil, errors.Join(err, line.Close())
	}
	if s.ours == nil {
		s.ours = make(map[uint32]*stream.Line)
	}
	s.ours[s.last] = line
	return lineLink{line, s.of, only, at}, stream.OverYamux(session), nil
}

// line makes a line over a path of a session.
func (s *lines) line(as *association, at path.Path, h stream.LineHeader) *stream.Line {
	return stream.NewLine(stream.LineConfig{
		Header: h,
		Await:  func(stop <-chan struct{}) (int, error) { return as.AwaitKept(at, stop) },
		Send: func(b []byte, size int) error {
			return as.SendKept(at, proto.StreamFlow, dgram.Burst{Buf: b, Size: size})
		},
		Ended: func(error) {
			s.forget(h)
			s.tell(h)
		},
	})
}

// tell lets the peer know that a line has ended. It is said once, over any
// path: if it is lost, yamux finds out.
func (s *lines) tell(h stream.LineHeader) {
	h.End, h.Offset = true, 0
	if as := s.of.p.association(); as != nil {
		as.SendOver(h.Only, proto.StreamFlow, dgram.One(dgram.Burst{}.Addr, h.Append(nil)))
	}
}

func (s *lines) forget(h stream.LineHeader) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Answer {
		delete(s.theirs, h.ID)
	} else {
		delete(s.ours, h.ID)
	}
}

// deliver takes a burst of the flow. It runs on a reader's goroutine.
func (s *lines) deliver(b dgram.Burst) {
	for d := range b.All() {
		h, payload, err := stream.ParseLine(d)
		if err != nil {
			s.malformed.Add(1)
			continue
		}
		if line := s.find(h); line != nil {
			line.Deliver(h, payload)
		}
	}
}

// find is the line that a datagram belongs to; a new one where the peer begins
// it.
func (s *lines) find(h stream.LineHeader) *stream.Line {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Answer {
		return s.ours[h.ID]
	}
	line := s.theirs[h.ID]
	if line != nil || h.End {
		return line
	}
	answer := stream.LineHeader{Answer: true, Only: h.Only, ID: h.ID}
	if line = s.accept(h, answer); line == nil && s.told != h.ID {
		s.told = h.ID
		s.of.p.a.tasks.start(func(context.Context) { s.tell(answer) })
	}
	return line
}

// accept takes a line that the peer begins, if this is its beginning.
func (s *lines) accept(h, answer stream.LineHeader) *stream.Line {
	as := s.of.p.association()
	if h.Offset != 0 || s.closed || len(s.theirs) >= mostLines || as == nil {
		return nil
	}
	at, ok := as.Kept(h.Only, false)
	if !ok {
		return nil
	}
	line := s.line(as, at, answer)
	session, err := yamux.Server(line, stream.YamuxConfig())
	if err != nil {
		_ = line.Close()
		return nil
	}
	if s.theirs == nil {
		s.theirs = make(map[uint32]*stream.Line)
	}
	s.theirs[h.ID] = line
	s.of.in.UseFor(h.Only, stream.OverYamux(session))
	return line
}

// close ends all lines.
func (s *lines) close() {
	s.mu.Lock()
	s.closed = true
	all := slices.AppendSeq(slices.Collect(maps.Values(s.ours)), maps.Values(s.theirs))
	s.mu.Unlock()
	for _, l := range all {
		_ = l.Close()
	}
}

// lineLink is a line as a carrier of ours.
type lineLink struct {
	line *stream.Line
	of   *connections
	only path.Kinds
	at   path.Path
}

func (l lineLink) ended() bool {
	select {
	case <-l.line.Done():
		return true
	default:
		return false
	}
}

func (l lineLink) close() { _ = l.line.Close() }

// fits is false as soon as data takes another path.
func (l lineLink) fits(time.Time) bool {
	as := l.of.p.association()
	if as == nil {
		return true // there is nothing better
	}
	at, ok := as.Kept(l.only, true)
	return ok && at == l.at
}

// doubtFor is how long a line stays on a path in doubt. Datagrams go over the
// spare as well meanwhile; those of a line can't.
const doubtFor = 300 * time.Millisecond

// doubt leaves a path that stays in doubt.
func (c *connections) doubt(ctx context.Context) {
	if path.Wait(ctx, doubtFor) {
		c.tend(time.Now())
	}
}

// wanted says whether data has taken a TCP connection for a while.
func (s *lines) wanted(now time.Time, as *association, only path.Kinds) bool {
	if as == nil {
		return false
	}
	at, ok := as.Kept(only, true)
	return s.steady.on(now, only, at, ok)
}

// steadyPath is since when data under each rule takes one and the same path that
// is fit for a stream of bytes: connections move to one only when it has for a
// while.
type steadyPath struct {
	mu    sync.Mutex
	rules map[path.Kinds]steadyAt
}

type steadyAt struct {
	path  path.Path
	since time.Time
}

// steadyFor is how long.
const steadyFor = 3 * time.Second

// on notes which path data takes now, and whether it is a fit one.
func (k *steadyPath) on(now time.Time, only path.Kinds, at path.Path, fit bool) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if was := k.rules[only]; !fit || was.path != at {
		if k.rules == nil {
			k.rules = make(map[path.Kinds]steadyAt)
		}
		k.rules[only] = steadyAt{at, now}
		return false
	}
	return now.Sub(k.rules[only].since) >= steadyFor
}
