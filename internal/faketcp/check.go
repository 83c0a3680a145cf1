package faketcp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"
)

// errSilent: the handshake was made, but no question was answered.
var errSilent = errors.New("the handshake was answered, but no datagram was")

// conversation is a check that is under way.
type conversation struct {
	conn    *Conn
	to      netip.AddrPort
	nonce   uint64
	answers chan heard
	asked   []question
	hole    int           // the number of the first one left out
	rtt     time.Duration // shortest
	slowest time.Duration
	plain   bool // the peer's port is the kernel's too, which would answer packed segments by RST
	verdict Verdict
}

// heard is an answer as it came.
type heard struct {
	message
	at time.Duration
}

// question is one datagram asked; its index is its number.
type question struct {
	seq      uint32
	length   int
	at       time.Duration
	answered bool
	packed   bool
}

// Bounds of a check.
const (
	mostQuestions = 200
	// leastPatience: nothing is given up sooner, whatever the round trip seems
	// to be.
	leastPatience = 5 * time.Second
	gapRounds     = 4
)

// runSizes are those of a run's questions, in bytes: all different, and mixed,
// so that whatever is cut anew shows.
var runSizes = []int{checkSize, 600, 88, 1100, 131, 420, 260}

// Check talks with the Conn at to, to which a flow is open, and finds out what
// the boxes between do to the segments: what each side sent against what the
// other saw, whether runs keep their boundaries, and whether segments behind a
// hole in the sequence numbers arrive. It takes one round trip where all is
// well. The error is that nobody answered for 5 s or 10 round trips, or ctx'.
// Two checks of one flow at a time disturb each other.
func (c *Conn) Check(ctx context.Context, to netip.AddrPort) (Verdict, error) {
	v := &conversation{conn: c, to: key(to), nonce: rand.Uint64(), answers: make(chan heard, mostQuestions)}
	c.mu.Lock()
	f := c.table.flows[v.to]
	if c.closed || f == nil || f.state != established {
		c.mu.Unlock()
		return Verdict{}, fmt.Errorf("check the path to %v: %w", to, ErrNotOpen)
	}
	v.verdict.Handshake = f.handshakeRTT
	c.checks[v.nonce] = v
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.checks, v.nonce)
		c.mu.Unlock()
	}()
	if err := v.run(ctx); err != nil {
		return v.verdict, fmt.Errorf("check the path to %v: %w", to, err)
	}
	return v.verdict, nil
}

func (v *conversation) run(ctx context.Context) error {
	if err := v.begin(ctx); err != nil {
		return err
	}
	if err := v.gaps(ctx); err != nil {
		return err
	}
	if v.verdict.Usable() && v.conn.mayPack() && !v.plain {
		v.provePacked(ctx)
	}
	v.conclude()
	return ctx.Err()
}

// begin sends a run and repeats it until something is answered.
func (v *conversation) begin(ctx context.Context) error {
	began := v.conn.now()
	wait := max(250*time.Millisecond, 2*v.verdict.Handshake)
	for {
		for _, n := range runSizes {
			v.ask(n, false)
		}
		first := v.hole == 0
		if first {
			v.hole = len(v.asked)
			v.askBehindHole()
		}
		if v.listen(ctx, wait, v.anyAnswered) {
			if !first {
				v.hole = len(v.asked)
			}
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if v.conn.now()-began > max(leastPatience, 10*v.verdict.Handshake) || len(v.asked) > mostQuestions/2 {
			return errSilent
		}
		wait = min(2*wait, time.Second+v.verdict.Handshake)
		// Where the peer checks too and a box waits for what is missing, our
		// answers to it are stuck behind our hole, and its answers behind its.
		v.fill()
	}
}

// anyAnswered says whether some question from the i-th on was answered.
func (v *conversation) anyAnswered() bool {
	for i := range v.asked {
		if v.asked[i].answered {
			return true
		}
	}
	return false
}

// askBehindHole leaves a hole in the sequence numbers and asks from behind it.
func (v *conversation) askBehindHole() {
	v.skip()
	v.ask(checkSize, false)
	v.ask(checkSize+32, false)
}

// behind says whether a question from behind a hole was answered, and filled
// whether one was that fills a hole.
func (v *conversation) behind() bool {
	return v.answeredSince(func(q question) bool { return q.length != holeSize })
}
func (v *conversation) filled() bool {
	return v.answeredSince(func(q question) bool { return q.length == holeSize })
}

func (v *conversation) answeredSince(is func(question) bool) bool {
	for _, q := range v.asked[v.hole:] {
		if q.answered && is(q) {
			return true
		}
	}
	return false
}

// gaps goes on where begin left the first hole. Where nothing from behind one
// is answered in several rounds, though what was before is, all since the first
// hole is sent again, in order, and the holes with it: what is answered only
// then was waiting for them.
func (v *conversation) gaps(ctx context.Context) error {
	for round := range gapRounds {
		if v.hole == len(v.asked) || round > 0 {
			v.askBehindHole()
		}
		wait := 2*v.slowest + time.Duration(round+1)*50*time.Millisecond
		if v.behind() || v.listen(ctx, wait, v.behind) {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	for range 3 {
		v.fill()
		if v.listen(ctx, 3*v.slowest+200*time.Millisecond, v.behind) {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if !v.behind() && !v.filled() {
		return errSilent // it died under way, whatever it is
	}
	v.verdict.SplitTCP = true
	v.saw("segments behind a hole in the sequence numbers waited until it was filled (%d rounds, round trip %v)", gapRounds, v.rtt.Round(time.Millisecond))
	return nil
}

// plainSizes are those of which the longest that crosses is looked for before
// packed mode begins, in bytes: the payloads of paths with an MTU of 1500 and
// less.
var plainSizes = []int{1232, 1280, 1360, 1400, 1440, 1452, 1460}

// The proof of packed mode: so many questions in each of three rounds at most,
// of which this share has to be answered, for some may be lost. A box that lets
// through what lies in a window of 2 GiB passes one in four there and back.
const (
	proofs     = 8
	proofShare = 0.75
)

// provePacked asks in packed form; and finds out how long a datagram crosses
// plain. A box that has shown already that it rewrites these fields is not
// bothered.
func (v *conversation) provePacked(ctx context.Context) {
	if v.verdict.SeqRewritten || v.verdict.WindowClamped {
		return
	}
	first := len(v.asked)
	all := func() bool {
		return !slices.ContainsFunc(v.asked[first:], func(q question) bool { return !q.answered })
	}
	for range 3 {
		for _, n := range plainSizes {
			v.ask(n, false)
		}
		for range proofs {
			v.ask(leastPacked, true)
		}
		if v.listen(ctx, 2*v.slowest+50*time.Millisecond, all) {
			break
		}
	}
	plain, proven := v.proof(first)
	if !proven || v.verdict.SeqRewritten || v.verdict.WindowClamped {
		return
	}
	c := v.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.table.flows[v.to]; f != nil && f.packed.state != packGivenUp {
		f.packed = packing{state: packProven, plain: plain, next: c.now() + proofEvery}
		v.verdict.Packed = true
	}
}

// proof counts the questions from the first on: the longest that crossed plain,
// and whether enough of the packed ones did.
func (v *conversation) proof(first int) (plain int, proven bool) {
	asked, answered := 0, 0
	for _, q := range v.asked[first:] {
		if q.packed {
			asked++
		}
		switch {
		case q.packed && q.answered:
			answered++
		case q.answered:
			plain = max(plain, q.length)
		}
	}
	return plain, asked > 0 && plain > 0 && float64(answered) >= proofShare*float64(asked)
}

// conclude weighs the handshake against the round trip.
func (v *conversation) conclude() {
	d := &v.verdict
	d.RTT = v.rtt
	if h := d.Handshake; h > 0 && h < v.rtt/3 && v.rtt-h > 50*time.Millisecond {
		v.saw("the SYN was answered after %v, datagrams after %v: somebody on the way answered it", h.Round(time.Millisecond), v.rtt.Round(time.Millisecond))
	}
}

func (v *conversation) saw(format string, args ...any) {
	v.verdict.Evidence = append(v.verdict.Evidence, fmt.Sprintf(format, args...))
}

// listen takes answers for d, or until enough says so, which it returns.
func (v *conversation) listen(ctx context.Context, d time.Duration, enough func() bool) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		select {
		case h := <-v.answers:
			v.weigh(h)
			if enough() {
				return true
			}
		case <-timer.C:
			return false
		case <-ctx.Done():
			return false
		case <-v.conn.done:
			return false
		}
	}
}

// weigh compares what was sent with what was seen, in both directions.
func (v *conversation) weigh(h heard) {
	if int(h.number) >= len(v.asked) {
		return
	}
	v.plain = v.plain || h.flags&flagPlain != 0
	q := &v.asked[h.number]
	if q.packed {
		q.answered = q.answered || h.flags&flagPacked != 0
		return
	}
	if !q.answered {
		trip := h.at - q.at
		if v.rtt == 0 || trip < v.rtt {
			v.rtt = trip
		}
		v.slowest = max(v.slowest, trip)
	}
	q.answered = true
	v.weighSegment(h, q)
	v.weighSYN(h)
}

// weighSegment compares a question and its answer as they left and as they
// came.
func (v *conversation) weighSegment(h heard, q *question) {
	d := &v.verdict
	if (int(h.came) != q.length || h.recut()) && !d.Coalesced {
		d.Coalesced = true
		v.saw("a datagram of %d bytes arrived as one of %d", q.length, h.came)
	}
	if !d.SeqRewritten && (h.saw.seq != q.seq || h.arrived.seq != h.sent.seq) {
		d.SeqRewritten = true
		v.saw("sequence numbers are shifted, ours by %d, the peer's by %d", h.saw.seq-q.seq, h.arrived.seq-h.sent.seq)
	}
	if window := v.conn.table.window; !d.WindowClamped && (h.saw.window != window || h.arrived.window != h.sent.window) {
		d.WindowClamped = true
		v.saw("the window left as %#x and arrived as %#x, the peer's as %#x and %#x", window, h.saw.window, h.sent.window, h.arrived.window)
	}
}

// weighSYN compares what both sides saw of the other's SYN.
func (v *conversation) weighSYN(h heard) {
	d := &v.verdict
	c := v.conn
	c.mu.Lock()
	f := c.table.flows[v.to]
	if f == nil {
		c.mu.Unlock()
		return
	}
	knows, saw, mss := f.knows, f.saw, f.mss
	c.mu.Unlock()
	if !d.OptionsStripped && (h.look&sawOptions == 0 || saw&sawOptions == 0) {
		d.OptionsStripped = true
		v.saw("options of the SYN did not arrive as they left")
	}
	if !d.WindowClamped && (h.look&sawWindow == 0 || saw&sawWindow == 0) {
		d.WindowClamped = true
		v.saw("the window of the SYN did not arrive as it left")
	}
	note := func(came, left uint16) {
		if came == 0 {
			return
		}
		if d.MSS == 0 || int(came) < d.MSS {
			d.MSS = int(came)
		}
		d.MSSClamped = d.MSSClamped || came != left
	}
	if knows {
		note(mss, h.ownMSS)
	}
	if h.flags&flagKnows != 0 {
		note(h.itsMSS, c.table.opts.MSS)
	}
}
