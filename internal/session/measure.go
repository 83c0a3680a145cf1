package session

import (
	"cmp"
	"fmt"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/path"
)

// Thresholds say from when on the best path is bad enough to look for another
// kind. Another path must be better as well, by its own measurement, before
// data leaves the best one.
type Thresholds struct {
	Loss float64       // share of our datagrams that the peer does not open, 0 to 1
	RTT  time.Duration // round trip
}

// DefaultThresholds are those of an agent without others: 5 % of loss halve what TCP gets through any path, and
// 700 ms is the round trip from which networks that hold UDP back were seen to
// begin.
func DefaultThresholds() Thresholds {
	return Thresholds{Loss: 0.05, RTT: 700 * time.Millisecond}
}

func (t Thresholds) withDefaults() Thresholds {
	d := DefaultThresholds()
	return Thresholds{Loss: cmp.Or(t.Loss, d.Loss), RTT: cmp.Or(t.RTT, d.RTT)}
}

// A trial is a train of probes, which measures a path that carries no data.
// They are as large as the largest datagram that data would send there, so that
// a network which shrank does not look better than it is; and as many a second
// as data sends, within these bounds (0.6 and 3.5 Mbit/s), so that a cap on the
// rate shows as well.
const (
	trialLasts = time.Second
	trialTick  = 20 * time.Millisecond
	trialLeast = 50
	trialMost  = 300
	// trialAgain is how often a spare is measured while the best is bad.
	trialAgain = 10 * time.Second
	// trialGood is how long a measurement counts.
	trialGood = 15 * time.Second
)

// The hysteresis. A path that was outdone has this long to get better before
// it is measured again, doubled each time up to the most.
const (
	outdoneFirst = 30 * time.Second
	outdoneMost  = 10 * time.Minute
	// badMeasures is how many measurements in a row make a path bad.
	badMeasures = 2
	// rttGain is by how much another path's round trip must be shorter, beside
	// a third: less than that is the jitter of a mobile network.
	rttGain = 100 * time.Millisecond
	// streamSlack is by how much the mean round trip of a stream may exceed that
	// of datagrams; one datagram in twenty that is sent again, and delays those
	// behind it, costs more.
	streamSlack = 10 * time.Millisecond
)

// trial is the last measurement of a path, and the one under way.
type trial struct {
	began    time.Time // zero while none is under way
	due      time.Time // of the next probes
	total    int
	sent     int
	answered int
	sum      time.Duration // of the round trips

	at   time.Time // when the last one ended, zero without any
	loss float64   // that it found, of both directions together
	rtt  time.Duration
}

func (t *trial) begin(now time.Time, total int) {
	t.began, t.due, t.total, t.sent, t.answered, t.sum = now, now, total, 0, 0, 0
}

func (t *trial) running() bool { return !t.began.IsZero() }

// next is how many probes leave now.
func (t *trial) next(now time.Time) int {
	if !t.running() || now.Before(t.due) || t.sent == t.total {
		return 0
	}
	t.due = now.Add(trialTick)
	want := int(int64(t.total)*int64(now.Sub(t.began)+trialTick)/int64(trialLasts)) - t.sent
	n := min(max(want, 1), t.total-t.sent)
	t.sent += n
	return n
}

func (t *trial) heard(rtt time.Duration) {
	t.answered++
	t.sum += rtt
}

// ends says whether the trial is over: every probe was answered, or has had
// time for it.
func (t *trial) ends(now time.Time, rtt time.Duration) bool {
	if !t.running() || t.sent < t.total || t.answered < t.total && now.Before(t.due.Add(max(4*rtt, rttGain))) {
		return false
	}
	t.began, t.at = time.Time{}, now
	t.loss = 1 - float64(t.answered)/float64(t.total)
	t.rtt = t.sum / time.Duration(max(t.answered, 1))
	return true
}

func (t *trial) fresh(now time.Time) bool { return !t.at.IsZero() && now.Sub(t.at) < trialGood }

// wait is how long until the trial has something to do.
func (t *trial) wait(now time.Time) time.Duration {
	return max(t.due.Sub(now), time.Millisecond)
}

// outdone is the record of a path that was measured to be worse than one of a
// lower kind.
type outdone struct {
	is      bool
	until   time.Time // when it is measured again
	strikes int
}

func (o *outdone) strike(now time.Time) {
	o.is = true
	o.until = now.Add(min(outdoneFirst<<min(o.strikes, 10), outdoneMost))
	o.strikes++
}

// past is what is remembered of the last path of a kind that was outdone. The
// path itself may be forgotten and found again from other ports, which changes
// nothing about the network that lost its datagrams: without it data would
// flap.
type past struct {
	outdone outdone
	at      time.Time // of the last strike
}

// strike puts a path behind the others, and has the next one of its kind begin
// there.
func (t *table) strike(st *state, now time.Time) {
	st.outdone.strike(now)
	if t.past == nil {
		t.past = make(map[path.Kind]past)
	}
	t.past[st.kind] = past{st.outdone, now}
}

// remembered is how a new path of a kind begins: behind the others where the
// last one of its kind was, until a trial of its own is good. That is kept for
// outdoneMost.
func (t *table) remembered(k path.Kind, now time.Time) outdone {
	p, ok := t.past[k]
	if !ok || now.Sub(p.at) > outdoneMost {
		delete(t.past, k)
		return outdone{}
	}
	return p.outdone
}

// Verdict is why data left a path that works.
type Verdict struct {
	At   time.Time
	Kind path.Kind
	Path path.Path
	Loss float64
	RTT  time.Duration

	Instead     path.Kind
	InsteadPath path.Path
	InsteadLoss float64
	InsteadRTT  time.Duration
}

func (v Verdict) String() string {
	return fmt.Sprintf("%.1f %% lost, round trip %.0f ms; %v had %.1f %% lost, %.0f ms",
		100*v.Loss, float64(v.RTT)/1e6, v.Instead, 100*v.InsteadLoss, float64(v.InsteadRTT)/1e6)
}

// Outdone is the last such verdict; its At is zero if there was none.
func (s *Session) Outdone() Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.paths.verdict
}

// bad says whether the best path is worse than the thresholds.
func (s *Session) bad(st *state) bool {
	t := s.cfg.Thresholds
	return st.answer.loss.high >= badMeasures || st.answer.rtt >= t.RTT
}

// slower says whether st takes much longer than another path was measured to.
func slower(st *state, than time.Duration) bool {
	return st.answer.rtt >= than+max(rttGain, st.answer.rtt/3)
}

// measure runs the trials that are due, and leaves a bad best path for one
// that was measured to be better. Caller holds s.mu.
func (s *Session) measure(now time.Time, active bool) (out []parcel, events []Event, next time.Duration) {
	next = s.idlePace()
	best := s.paths.best
	if best == nil {
		return nil, nil, next
	}
	if active {
		events = s.seek(now, best)
	}
	ended := false
	for _, st := range s.paths.states {
		t := &st.trial
		for range t.next(now) {
			out = append(out, s.askTrial(st, now))
		}
		if t.ends(now, st.answer.rtt) {
			ended = true
			if st.outdone.is {
				s.reconsider(st, best, now)
			}
		}
		if t.running() {
			next = min(next, t.wait(now))
		}
	}
	if ended {
		events = append(events, s.compare(now)...)
	}
	return out, events, next
}

// seek begins trials: of the spares while the best is bad, and of what was
// outdone when its time has come.
func (s *Session) seek(now time.Time, best *state) (events []Event) {
	bad := s.bad(best)
	for _, st := range s.paths.states {
		if st == best || !st.usable() || st.doubt || st.trial.running() {
			continue
		}
		again := now.Sub(st.trial.at) >= trialAgain
		switch {
		case st.outdone.is && !now.Before(st.outdone.until),
			!st.outdone.is && again && (bad || slower(best, st.answer.rtt)):
			st.trial.begin(now, s.trialSize())
		}
	}
	if bad {
		if tell, _ := s.paths.degraded.due(now, outdoneFirst, outdoneMost); tell {
			events = append(events, Degraded)
		}
	}
	return events
}

// trialSize is as many probes as data sends datagrams a second.
func (s *Session) trialSize() int {
	return min(max(int(s.paths.best.answer.loss.rate), trialLeast), trialMost)
}

// askTrial is one probe of a trial. Unlike others it says nothing about
// whether the path is alive.
func (s *Session) askTrial(st *state, now time.Time) parcel {
	p := s.ask(st, st.size.mtu, now, nil)
	w := s.probes.waiting[s.probes.counter]
	w.trial = true
	s.probes.waiting[s.probes.counter] = w
	return p
}

// reconsider takes a path back whose trial was good, or gives it more time.
func (s *Session) reconsider(st, best *state, now time.Time) {
	t := s.cfg.Thresholds
	if st.trial.loss < t.Loss/2 && st.trial.rtt < t.RTT && st.trial.rtt < best.answer.rtt+max(rttGain, best.answer.rtt/3) {
		st.outdone.is = false
		st.answer.loss = lossMeter{}
		delete(s.paths.past, st.kind)
		return
	}
	s.paths.strike(st, now)
}

// compare leaves the best path where it is bad and a measured one is better.
func (s *Session) compare(now time.Time) []Event {
	best := s.paths.best
	var instead *state
	for _, st := range s.paths.states {
		if st == best || !st.usable() || st.outdone.is || !st.trial.fresh(now) || !s.beats(st, best) {
			continue
		}
		if instead == nil || better(st, instead, nil) {
			instead = st
		}
	}
	if instead != nil {
		s.paths.strike(best, now)
		s.paths.verdict = Verdict{At: now, Kind: best.kind, Path: best.path, Loss: best.answer.loss.loss, RTT: best.answer.rtt,
			Instead: instead.kind, InsteadPath: instead.path, InsteadLoss: instead.trial.loss, InsteadRTT: instead.trial.rtt}
	}
	events := s.choose(now)
	if instead != nil {
		events = append(events, Outdone)
	}
	return events
}

// beats says whether st, by its trial, is clearly better than the best path:
// less than half the loss without a much longer round trip, or a much shorter
// round trip without more loss.
func (s *Session) beats(st, best *state) bool {
	t, loss := &st.trial, best.answer.loss.loss
	longest := 3*best.answer.rtt + rttGain
	if st.kind.Stream() {
		// A stream loses nothing: what the network loses there shows in the
		// round trip. And it is worth its delays only against much loss.
		loss -= s.cfg.Thresholds.Loss
		longest = best.answer.rtt + max(best.answer.rtt/4, streamSlack)
	}
	if best.answer.loss.high >= badMeasures && loss >= s.cfg.Thresholds.Loss && t.loss <= loss/2 && t.rtt <= longest {
		return true
	}
	return slower(best, t.rtt) && t.loss <= max(loss, 0.01)
}

// extraOf is how many bytes fewer than over UDP and IPv4 a datagram may have
// on a path.
func extraOf(p path.Path) int {
	extra := 0
	if a := p.Addr.Addr(); a.IsValid() && !a.Unmap().Is4() {
		extra = ipv6Extra
	}
	if h, ok := p.Conn.(dgram.Heavier); ok {
		extra += h.Extra(p.Addr)
	}
	return extra
}
