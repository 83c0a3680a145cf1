package session

import (
	"context"
	"errors"
	"fmt"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
	"rendezvous/internal/seal"
	"rendezvous/proto"
)

// prober counts probes and remembers those that wait for an answer.
type prober struct {
	counter uint64
	window  seal.Window
	waiting map[uint64]sent
	shots   map[uint64]sent // that are not watched
	shot    time.Time       // when the last of them left
	rekey   rekeying
}

// sent is a probe under way.
type sent struct {
	path path.Path
	kind path.Kind // of a shot
	at   time.Time
	size int    // of the padded probe, 0 for one without padding
	tx   uint64 // our data datagrams on that path when it left
	// trial says that the probe belongs to a trial.
	trial bool
	done  chan time.Duration
}

// parcel is a datagram to write once the mutex is free.
type parcel struct {
	path path.Path
	b    []byte
}

const (
	// maxWaiting bounds the probes under way; the oldest answers are then lost.
	maxWaiting = 1024
	// answerWithin is how long an answer may take: three satellite round trips.
	answerWithin = 6 * time.Second
	// triggerPace keeps triggered checks to one address apart (RFC 8445 7.3.1.4).
	triggerPace = 20 * time.Millisecond
)

// ErrClosed is returned by conversations that a Close has ended.
var ErrClosed = errors.New("the session has ended")

// ErrNoPath is returned where a probe needs a path and there is none.
var ErrNoPath = errors.New("no path to the peer")

// ask makes a probe on st. Caller holds s.mu and writes the parcel after.
func (s *Session) ask(st *state, size int, now time.Time, done chan time.Duration) parcel {
	s.meter()
	p := &s.probes
	p.counter++
	if len(p.waiting) >= maxWaiting {
		s.forget(now)
	}
	if now.Sub(p.shot) > answerWithin {
		p.shots = nil // a session lives long after a spray
	}
	p.waiting[p.counter] = sent{path: st.path, at: now, size: size, tx: st.tx.Load(), done: done}
	if size == 0 {
		st.answer.asked = now
		st.answer.unanswered++
		if st.answer.waitsFrom.IsZero() {
			st.answer.waitsFrom = now
		}
	}
	body := proto.ProbeBody{Best: st == s.paths.best, Next: s.dataCounter(), Received: st.rx, Epoch: s.epoch()}
	body.Size = uint16(max(size, proto.ProbeSize))
	return parcel{st.path, s.cfg.Probe.Seal(nil, false, p.counter, body, size)}
}

func (s *Session) dataCounter() uint64 {
	if s.cfg.Raw {
		return s.counts.txDatagrams.Load()
	}
	if k := s.keys.sending.Load(); k != nil {
		return k.counter.Load()
	}
	return 0
}

func (s *Session) epoch() uint8 {
	if k := s.keys.sending.Load(); k != nil {
		return k.epoch
	}
	return 0
}

// forget drops the probes that nobody will answer any more.
func (s *Session) forget(now time.Time) {
	for counter, w := range s.probes.waiting {
		if now.Sub(w.at) > answerWithin || len(s.probes.waiting) > maxWaiting {
			delete(s.probes.waiting, counter)
		}
	}
}

func (s *Session) post(parcels []parcel) {
	for _, p := range parcels {
		if err := p.path.Conn.Write(dgram.One(p.path.Addr, p.b)); err != nil {
			s.counts.drop(dropWriteError, 1)
		}
	}
}

// maxShots bounds the shots whose answers are known again.
const maxShots = 4096

// Shoot probes p once, without watching it as Try does: p becomes a path when
// the peer answers. It is for many addresses of which most are nobody's. The
// error is that of the write.
func (s *Session) Shoot(p path.Path, k path.Kind) error {
	now := time.Now()
	s.mu.Lock()
	pr := &s.probes
	pr.counter++
	if len(pr.shots) >= maxShots {
		for counter, w := range pr.shots {
			if now.Sub(w.at) > answerWithin {
				delete(pr.shots, counter)
			}
		}
	}
	if pr.shots == nil {
		pr.shots = make(map[uint64]sent)
	}
	if len(pr.shots) < maxShots {
		pr.shots[pr.counter] = sent{path: p, kind: k, at: now}
	}
	pr.shot = now
	body := proto.ProbeBody{Next: s.dataCounter(), Epoch: s.epoch(), Size: proto.ProbeSize}
	b := s.cfg.Probe.Seal(nil, false, pr.counter, body, 0)
	s.mu.Unlock()
	return p.Conn.Write(dgram.One(p.Addr, b))
}

// struck takes the answer to a shot for that to a probe of a path that is
// watched from now on. Caller holds s.mu.
func (s *Session) struck(echo uint64, p path.Path, now time.Time) {
	w, ok := s.probes.shots[echo]
	if !ok || w.path != p {
		return
	}
	delete(s.probes.shots, echo)
	if st := s.add(p, w.kind, now); st != nil {
		s.probes.waiting[echo] = w
	}
}

// tryWaits is the pace of probes to one candidate: three close together
// against loss and skew, then slower (NAT.md's measured burst).
var tryWaits = []time.Duration{20 * time.Millisecond, 30 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond}

// Try probes p until the peer answers there and returns the round trip. A
// path that was not proven when ctx ends is forgotten, so that nothing keeps
// a dead mapping alive.
func (s *Session) Try(ctx context.Context, p path.Path, k path.Kind) (time.Duration, error) {
	began := time.Now()
	s.mu.Lock()
	st := s.add(p, k, began)
	s.mu.Unlock()
	if st == nil {
		return 0, fmt.Errorf("probe %v: the session watches %d paths already", p.Addr, maxPaths)
	}
	for i := 0; ; i++ {
		if st.isProven() {
			s.mu.Lock()
			defer s.mu.Unlock()
			return st.answer.rtt, nil
		}
		s.mu.Lock()
		out := s.ask(st, 0, time.Now(), nil)
		s.mu.Unlock()
		s.post([]parcel{out})
		if err := s.await(ctx, st, tryWaits[min(i, len(tryWaits)-1)]); err != nil {
			s.abandon(st)
			return 0, fmt.Errorf("probe %v: %d probes in %v unanswered: %w", p.Addr, i+1, time.Since(began).Round(time.Millisecond), err)
		}
	}
}

// await waits until st is proven or d has passed.
func (s *Session) await(ctx context.Context, st *state, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-st.proven:
	case <-timer.C:
	case <-s.done:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

func (s *Session) abandon(st *state) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !st.isProven() && s.paths.states[st.path] == st {
		delete(s.paths.states, st.path)
	}
}

// Ping sends one probe over the best path and waits for its answer.
func (s *Session) Ping(ctx context.Context) (path.Path, path.Kind, time.Duration, error) {
	done := make(chan time.Duration, 1)
	s.mu.Lock()
	best := s.paths.best
	if best == nil {
		s.mu.Unlock()
		return path.Path{}, path.None, 0, ErrNoPath
	}
	out := s.ask(best, 0, time.Now(), done)
	s.mu.Unlock()
	s.post([]parcel{out})
	select {
	case rtt := <-done:
		return best.path, best.kind, rtt, nil
	case <-s.done:
		return best.path, best.kind, 0, ErrClosed
	case <-ctx.Done():
		return best.path, best.kind, 0, ctx.Err()
	}
}

// receiveProbe handles a probe or an answer and reports whether it is genuine.
func (s *Session) receiveProbe(p path.Path, k path.Kind, d []byte) bool {
	h, body, err := s.cfg.Probe.Open(d)
	if err != nil {
		s.counts.drop(dropBadProbe, 1)
		return false
	}
	now := time.Now()
	s.mu.Lock()
	if !s.probes.window.Accept(h.Counter) {
		s.mu.Unlock()
		s.counts.drop(dropReplayed, 1)
		return false
	}
	s.resync(body)
	var out []parcel
	var events []Event
	if h.Answer {
		events = s.answered(p, body, now)
	} else {
		out = s.answer(p, k, h, body, len(d), now)
	}
	s.mu.Unlock()
	s.post(out)
	s.tell(events)
	if body.Next > 0 {
		s.confirm()
	}
	s.greet()
	return true
}

// resync moves the window on where the peer has sent far more than came.
func (s *Session) resync(body proto.ProbeBody) {
	key := s.keys.received[body.Epoch&1].Load()
	if key == nil || key.epoch != body.Epoch {
		return
	}
	key.mu.Lock()
	if body.Next > key.window.Expected()+1<<(proto.CounterBits-1) {
		key.window.Jump(body.Next)
	}
	key.mu.Unlock()
}

// answer answers a probe at once, and where it came from an address that is
// not proven yet, checks that address in turn: a peer-reflexive candidate
// becomes a path without any prediction (RFC 8445 7.3.1.3 and 7.3.1.4).
func (s *Session) answer(p path.Path, k path.Kind, h proto.ProbeHeader, body proto.ProbeBody, size int, now time.Time) []parcel {
	s.meter()
	s.probes.counter++
	st := s.add(p, k, now)
	if st == nil {
		return nil
	}
	reply := proto.ProbeBody{
		Next: s.dataCounter(), Received: st.rx, Epoch: s.epoch(),
		Echo: h.Counter, Size: uint16(size), Observed: p.Addr,
	}
	st.heard = now
	reply.Best = st == s.paths.best
	out := []parcel{{p, s.cfg.Probe.Seal(nil, true, s.probes.counter, reply, 0)}}
	asked := now.Sub(st.answer.asked)
	if !st.usable() && asked >= triggerPace || s.joins(st, asked, now) {
		out = append(out, s.ask(st, 0, now, nil))
	}
	return out
}

// answered takes in what an answer tells: the path works both ways, how long
// a round trip takes, what size crosses, and where the peer sees us.
func (s *Session) answered(p path.Path, body proto.ProbeBody, now time.Time) []Event {
	s.struck(body.Echo, p, now)
	w, ok := s.probes.waiting[body.Echo]
	if !ok || w.path != p {
		s.counts.drop(dropBadProbe, 1)
		return nil
	}
	delete(s.probes.waiting, body.Echo)
	st := s.paths.states[p]
	if st == nil {
		return nil
	}
	rtt := now.Sub(w.at)
	if w.done != nil {
		w.done <- rtt
	}
	st.answer.heard(rtt, w.size == 0, now)
	s.weigh(st, w, body, rtt, now)
	if !w.trial && st.answer.waitsFrom.IsZero() {
		s.poke() // nothing is late any more
	}
	st.heard, st.observed = now, body.Observed
	if st.size.answered(max(w.size, 0), now) {
		s.publish()
	}
	if st.revive() || s.paths.best != st {
		return s.choose(now)
	}
	return nil
}

// weigh lets an answer tell of what is lost on its path.
func (s *Session) weigh(st *state, w sent, body proto.ProbeBody, rtt time.Duration, now time.Time) {
	switch {
	case w.trial:
		st.trial.heard(rtt)
	case st.doubt:
		st.answer.loss.pause()
	case s.leads(st):
		st.answer.loss.answered(now, w.tx, body.Received, s.cfg.Thresholds.Loss)
	}
}
