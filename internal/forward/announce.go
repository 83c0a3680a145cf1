package forward

import (
	"bytes"
	"errors"
	"net/netip"
	"time"

	"rendezvous/internal/dgram"
	"rendezvous/internal/ops"
	"rendezvous/internal/path"
	"rendezvous/proto"
)

// outgoing is the part of a flow that only the dialing side has. Flows.mu
// guards what is not set once.
type outgoing struct {
	dial   *Dial
	client netip.AddrPort

	state      openState
	raw        bool   // the peer said that its service is
	hasPayload bool   // Open carries a payload
	payload    []byte // the datagram that opened the flow, until it is open
	sent       time.Duration
	answered   time.Duration // when the peer last refused or closed it
	tries      int           // Opens sent since the state was entered
}

type openState uint8

const (
	fresh   openState = iota // nothing was sent
	opening                  // Open was sent
	reopen                   // it was open, but the peer may not know
	open
	refused
)

// How Open is repeated.
const (
	// payloadSize is the largest datagram that rides in an Open, in bytes: with
	// the frame and the seal around it, it fits a path of IPv6's least MTU,
	// 1280 (RFC 8200 section 5).
	payloadSize = 1100
	// openEach is how soon a client's next burst repeats an Open, doubled with
	// each up to 1 << openDoubled times: while there is no session yet, the
	// carrier should rather hold datagrams.
	openEach    = 20 * time.Millisecond
	openDoubled = 4
	// refusedFor is how long a refusal is taken as the answer.
	refusedFor = 2 * time.Second
	// An Open that no burst repeats is repeated by Expire, for the client may
	// have sent a single datagram: up to so many in all, so many flows at once.
	repeatEach  = 250 * time.Millisecond
	repeatTries = 5
	repeatMost  = 64
)

// due says whether a burst should repeat the Open.
func (o *outgoing) due(now time.Duration) bool {
	switch o.state {
	case opening:
		return o.tries == 0 || now-o.sent >= openEach<<min(o.tries-1, openDoubled)
	case reopen:
		return true
	}
	return false
}

// ask says what to do with a burst of a flow that is not open: an Open to send
// first, what then remains to send, and whether anything does.
func (t *Flows) ask(f *flow, b dgram.Burst) (frame []announcement, rest dgram.Burst, ok bool) {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	o := f.out
	switch {
	case f.recent == nil:
		t.count.add(unknownFlow, b.Len()) // it was evicted just now
		return nil, b, false
	case o.state == refused && now-o.answered < refusedFor:
		t.count.add(refusedFlow, b.Len())
		return nil, b, false
	case o.state == fresh || o.state == refused:
		rest, ok = b, true
		o.hasPayload, o.payload = false, nil
		if first, others := cut(b); len(first) <= payloadSize {
			o.hasPayload, o.payload = true, bytes.Clone(first)
			rest, ok = others, b.Len() > 1
		}
		t.await(f, opening)
		return []announcement{t.openFrame(f, now)}, rest, ok
	case o.due(now):
		if o.state == reopen {
			t.await(f, opening)
		}
		return []announcement{t.openFrame(f, now)}, b, true
	}
	return nil, b, true
}

// await enters a state in which an Opened is waited for. t.mu is held.
func (t *Flows) await(f *flow, s openState) {
	f.out.state, f.out.tries = s, 0
	t.unanswered[f] = struct{}{}
}

// cut separates the first datagram of a burst.
func cut(b dgram.Burst) (first []byte, others dgram.Burst) {
	n := len(b.Buf)
	if b.Len() > 1 {
		n = b.Size
	}
	others = b
	others.Buf = b.Buf[n:]
	return b.Buf[:n], others
}

// openFrame is the Open of the flow. t.mu is held.
func (t *Flows) openFrame(f *flow, now time.Duration) announcement {
	f.out.sent = now
	f.out.tries++
	return announcement{f.rule(), &proto.Frame{Body: &proto.Frame_Open{Open: &proto.Open{
		Flow: uint32(f.number), Service: f.out.dial.service, Instance: f.instance,
		HasPayload: f.out.hasPayload, Payload: f.out.payload, Paths: f.out.dial.only.Names(),
	}}}}
}

// announceAll makes the Opens of all flows due again: a new session was made.
// The Open of a flow that was open carries no payload: that would be taken for
// the datagram that opened the flow first, and be dropped. t.mu is held.
func (t *Flows) announceAll() {
	for _, f := range t.byNumber {
		switch {
		case f.out == nil:
		case f.out.state == open:
			t.await(f, reopen)
		case f.out.state == opening:
			t.await(f, opening)
		}
	}
}

// repeat is the Opens that are due without a burst. t.mu is held.
func (t *Flows) repeat(now time.Duration) []announcement {
	var frames []announcement
	for f := range t.unanswered {
		o := f.out
		switch {
		case len(frames) == repeatMost:
			return frames
		case o.state == opening && now-o.sent < repeatEach:
		case o.tries >= repeatTries:
			delete(t.unanswered, f) // the client's next burst tries again
		default:
			o.state = opening
			frames = append(frames, t.openFrame(f, now))
		}
	}
	return frames
}

// errNumberTaken is how a peer refuses a number that it has given to a flow of
// its own.
var errNumberTaken = errors.New("flow number is taken")

// verdictOf is the service's rule, and why the flow is refused, by the peer or
// for a rule that can't be obeyed here.
func verdictOf(m *proto.Opened) (rule path.Kinds, refused string) {
	rule, err := ruleOf(m.GetPaths())
	if refused = ops.Plain(m.GetRefused()); refused == "" && err != nil {
		refused = err.Error()
	}
	return rule, refused
}

// opened handles the peer's answer to an Open.
func (t *Flows) opened(m *proto.Opened) {
	now := t.now()
	t.mu.Lock()
	f := t.byNumber[uint16(m.GetFlow())]
	if m.GetFlow() > proto.MaxFlow || f == nil || f.out == nil || m.GetInstance() != f.instance {
		t.mu.Unlock()
		t.count.add(badFrame, 1)
		return
	}
	o := f.out
	delete(t.unanswered, f)
	o.hasPayload, o.payload = false, nil
	wantsRaw := false
	told, why := verdictOf(m)
	switch why {
	case "":
		o.dial.told = told
		f.obey(o.dial.rule())
		wantsRaw = m.GetRaw() && f.overUDP() && f.raw.Load() == nil && o.state != open
		o.state, o.raw, o.dial.refused = open, m.GetRaw(), ""
		if !o.raw || !f.overUDP() {
			f.raw.Store(nil)
		}
	case errNumberTaken.Error():
		t.remove(f, now) // the client's next datagram takes another
	default:
		o.state, o.answered, o.dial.refused = refused, now, why
	}
	t.mu.Unlock()
	if wantsRaw {
		t.cfg.Carrier.Raw(f.number, f.instance)
	}
}

// farEnded handles the peer's Close of a flow whose client is still here. In
// use, it is opened again at once, else with the client's next burst. t.mu is
// held.
func (t *Flows) farEnded(f *flow, now time.Duration) []announcement {
	o := f.out
	if o.state == fresh || o.state == refused || o.answered > 0 && now-o.answered < openEach {
		return nil
	}
	o.answered = now
	if now-time.Duration(f.used.Load()) > time.Second {
		o.state = reopen
		delete(t.unanswered, f)
		return nil
	}
	t.await(f, opening)
	return []announcement{t.openFrame(f, now)}
}
